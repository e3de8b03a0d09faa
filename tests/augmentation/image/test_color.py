"""Colours equal torchvision's of each image with the same parameters, to one grey level."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from lightning_modules.augmentation.image import color
from lightning_modules.augmentation.image.photometric import ColorJitter, Grayscale
from lightning_modules.config.errors import UserError

N = 24
RANGED: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], float, float]] = {
    "brightness": (color.brightness, reference.adjust_brightness, 0, 2),
    "contrast": (color.contrast, reference.adjust_contrast, 0, 2),
    "saturation": (color.saturation, reference.adjust_saturation, 0, 2),
    "hue": (color.hue, reference.adjust_hue, -0.5, 0.5),
    "sharpness": (color.sharpness, reference.adjust_sharpness, 0, 2),
}
PLAIN: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "invert": (color.invert, reference.invert),
    "autocontrast": (color.autocontrast, reference.autocontrast),
    "equalize": (color.equalize, reference.equalize),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(channels: int, dtype: torch.dtype = torch.uint8, side: int = 19) -> Tensor:
    """Smooth ones, noise, one of a single colour, black and white."""
    coarse = torch.rand(N, channels, 4, 4, generator=seeded())
    x = torch.nn.functional.interpolate(coarse, (side, side - 2), mode="bilinear") * 200 + 20
    x[1] = torch.rand(x[1].shape, generator=seeded(1)) * 255
    x[2], x[3], x[4] = 77, 0, 255
    x = x.to(torch.uint8)
    return x if dtype == torch.uint8 else (x / 255).to(dtype)


def assert_close(ours: Tensor, theirs: Tensor, levels: int = 1) -> None:
    assert ours.dtype == theirs.dtype
    if ours.dtype == torch.uint8:
        off = (ours.int() - theirs.int()).abs()
        assert off.max() <= levels
        assert (off > 0).float().mean() < 0.01, "truncation of equal numbers"
    else:
        assert torch.allclose(ours, theirs, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", RANGED)
def test_an_operation_with_a_factor_equals_torchvisions_of_each_image(
    name: str, channels: int, dtype: torch.dtype
) -> None:
    ours, theirs, low, high = RANGED[name]
    x, factor = pictures(channels, dtype), torch.rand(N, generator=seeded(2)) * (high - low) + low
    out = ours(x, factor)
    assert_close(out, torch.stack([theirs(x[i], float(factor[i])) for i in range(N)]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", PLAIN)
def test_an_operation_without_a_factor_equals_torchvisions_of_each_image(
    name: str, channels: int, dtype: torch.dtype
) -> None:
    x = pictures(channels, dtype, side=40)
    ours, theirs = PLAIN[name]
    assert_close(ours(x), torch.stack([theirs(image) for image in x]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_posterize_and_solarize_equal_torchvisions(dtype: torch.dtype) -> None:
    x, bits = pictures(3, dtype), torch.arange(N) % 9
    theirs = torch.stack([reference.posterize(x[i], int(bits[i])) for i in range(N)])
    assert torch.allclose(color.posterize(x, bits.float()).float(), theirs.float())
    limit = torch.linspace(0, 1, N)
    white = 255 if dtype == torch.uint8 else 1
    theirs = torch.stack([reference.solarize(x[i], float(limit[i].double() * white)) for i in range(N)])
    assert torch.equal(color.solarize(x, limit), theirs)


def test_grayscale_keeps_the_channels_and_equals_torchvisions() -> None:
    x = pictures(3)
    out = Grayscale(1.0)({"x": x}, seeded())["x"]
    assert_close(out, torch.stack([reference.rgb_to_grayscale(image, 3) for image in x]))
    assert torch.equal(Grayscale(1.0)({"x": pictures(1)}, seeded())["x"], pictures(1))


def test_hue_and_saturation_leave_one_channel_as_it_is() -> None:
    x = pictures(1)
    assert torch.equal(ColorJitter(saturation=0.9, hue=0.5)({"x": x}, seeded())["x"], x)


def test_jitter_does_brightness_contrast_saturation_hue_in_this_order() -> None:
    x = pictures(3)
    source = seeded(3)
    torch.rand(N, generator=source)  # which images are changed is drawn first
    factors = [torch.rand(N, generator=source) * 0.8 + 0.6 for _ in range(3)] + [
        torch.rand(N, generator=source) * 0.2 - 0.1
    ]
    out = ColorJitter(0.4, 0.4, 0.4, 0.1)({"x": x}, seeded(3))["x"]
    for i in range(N):
        one = reference.adjust_brightness(x[i], float(factors[0][i]))
        one = reference.adjust_contrast(one, float(factors[1][i]))
        one = reference.adjust_saturation(one, float(factors[2][i]))
        one = reference.adjust_hue(one, float(factors[3][i]))
        assert (one.int() - out[i].int()).abs().max() <= 3, "each of four may be one level off"


def test_jitter_stays_in_its_ranges() -> None:
    x = torch.full((5000, 3, 2, 2), 100, dtype=torch.uint8)
    levels = ColorJitter(brightness=(0.5, 1.2))({"x": x}, seeded())["x"][:, 0, 0, 0].float()
    assert levels.min() == 50
    assert levels.max() == 119
    assert abs(float(levels.mean()) - 84.5) < 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"brightness": (-1, 1)}, "brightness=.* at least 0"),
        ({"contrast": (2, 1)}, "contrast=.* ascending"),
        ({"hue": 0.6}, r"hue=.* in \[-0.5, 0.5\]"),
    ],
)
def test_senseless_ranges_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ColorJitter(**settings)
