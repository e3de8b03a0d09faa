import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from lightning_modules.augmentation.image.erasing import RandomErasing
from lightning_modules.augmentation.image.photometric import GaussianBlur, GaussianNoise, gaussian_blur
from lightning_modules.config.errors import UserError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int = 20, channels: int = 3) -> Tensor:
    return torch.randint(0, 256, (count, channels, 11, 15), dtype=torch.uint8, generator=seeded(5))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("channels", "kernel_size"), [(3, 3), (1, 7), (3, 11), (1, 1)])
def test_a_blur_equals_torchvisions_of_each_image(channels: int, kernel_size: int, dtype: torch.dtype) -> None:
    x = noise(channels=channels)
    x = x if dtype == torch.uint8 else x / 255
    sigma = torch.rand(20, generator=seeded(1)) * 2.9 + 0.1
    ours = gaussian_blur(x, sigma, kernel_size)
    for i in range(20):
        theirs = reference.gaussian_blur(x[i], [kernel_size, kernel_size], [float(sigma[i])] * 2)
        assert (theirs.double() - ours[i].double()).abs().max() <= (1 if dtype == torch.uint8 else 1e-5)


def test_a_kernel_must_be_odd_and_fit_into_the_image() -> None:
    with pytest.raises(UserError, match="kernel_size=4 must be an odd number"):
        GaussianBlur(4)
    with pytest.raises(UserError, match="11x15 pixels: at most 21"):
        GaussianBlur(23)({"x": noise()}, seeded())
    with pytest.raises(UserError, match=r"GaussianBlur\.sigma"):
        GaussianBlur(3, sigma=(0, 1))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_noise_has_the_standard_deviation_drawn_for_each_image_and_no_mean(dtype: torch.dtype) -> None:
    grey = torch.full((2000, 1, 20, 20), 128.0)
    x = grey.to(dtype) if dtype == torch.uint8 else (grey / 256).to(dtype)
    out = GaussianNoise(std=(0.02, 0.1), probability=1.0)({"x": x}, seeded())["x"]
    off = (out.float() - x.float()).flatten(1) / (255 if dtype == torch.uint8 else 1)
    assert abs(float(off.mean())) < 1e-3
    assert abs(float(off.std(1).mean()) - 0.06) < 2e-3
    assert off.std(1).min() < 0.025
    assert off.std(1).max() > 0.095
    assert abs(float(torch.corrcoef(off[:, :2].T)[0, 1])) < 0.1


def test_a_single_std_is_that_of_all_images() -> None:
    x = torch.full((50, 1, 40, 40), 0.5)
    off = (GaussianNoise(std=0.05, probability=1.0)({"x": x}, seeded())["x"] - x).flatten(1)
    assert (off.std(1) - 0.05).abs().max() < 0.005


def erased(**settings: object) -> Tensor:
    """bool [4000, 20, 30]: what is covered in white images."""
    x = torch.ones(4000, 1, 20, 30)
    return RandomErasing(fill=0, **settings)({"x": x}, seeded())["x"][:, 0] == 0  # type: ignore[arg-type]


def test_one_rectangle_of_the_right_area_and_shape_is_covered_within_the_image() -> None:
    found = erased(probability=1.0, scale=(0.1, 0.3), ratio=(0.5, 2.0))
    tall, wide = found.any(2).sum(1), found.any(1).sum(1)
    assert torch.equal(found.sum((1, 2)), tall * wide), "a rectangle"
    area = tall * wide / 600
    assert 0.08 < area.min() < 0.11
    assert 0.28 < area.max() < 0.33
    assert abs(float(area.mean()) - 0.2) < 0.01
    shape = (wide / tall).log()
    assert abs(float(shape.mean())) < 0.03, "tall ones are as likely as wide ones"
    assert shape.abs().max() < 0.9
    assert found.any(0).all(), "every pixel may be covered"


def test_the_probability_is_that_of_each_image() -> None:
    share = erased(probability=0.25).flatten(1).any(1).float().mean()
    assert abs(float(share) - 0.25) < 0.03


def test_the_cover_is_uniform_noise_or_the_given_value_of_each_channel() -> None:
    x = torch.zeros(300, 3, 16, 16, dtype=torch.uint8)
    covered = RandomErasing(scale=(0.4, 0.4), ratio=(1, 1), probability=1.0)({"x": x}, seeded())["x"]
    levels = covered[covered > 0].float()
    assert abs(float(levels.mean()) - 128) < 1
    assert levels.max() == 255
    assert len(levels.unique()) == 255
    out = RandomErasing(fill=[1, 2, 3], probability=1.0)({"x": x}, seeded())["x"]
    for channel in range(3):
        assert set(out[:, channel].unique().tolist()) == {0, channel + 1}


def test_what_cannot_fit_covers_nothing() -> None:
    x = torch.ones(5, 1, 2, 40)
    out = RandomErasing(scale=(0.9, 0.9), ratio=(1, 1), probability=1.0)({"x": x}, seeded())["x"]
    assert torch.equal(out, x)


def test_senseless_settings_of_erasing_are_refused() -> None:
    with pytest.raises(UserError, match="fill=nosie: did you mean 'noise'"):
        RandomErasing(fill="nosie")
    with pytest.raises(UserError, match=r"RandomErasing\.scale"):
        RandomErasing(scale=(0.5, 0.2))
    with pytest.raises(UserError, match=r"RandomErasing\.ratio"):
        RandomErasing(ratio=(0, 1))
