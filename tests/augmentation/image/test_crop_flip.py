import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from lightning_modules.augmentation.image.crop_flip import CropFlip, crop_flip
from lightning_modules.config.errors import UserError
from lightning_modules.data.compose import Compose


def images(count: int, channels: int = 3, height: int = 9, width: int = 7) -> Tensor:
    shape = (count, channels, height, width)
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int) -> dict[str, Tensor]:
    x = torch.arange(1, 50, dtype=torch.uint8).view(1, 1, 7, 7).repeat(count, 1, 1, 1)
    return {"x": x, "y": torch.arange(count) % 10, "index": torch.arange(count)}


def recovered(x: Tensor, padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """Read (down, right, mirrored) of every image off its central pixels, for images of `batch`."""
    centre, beside = x[:, 0, 3, 3].long() - 1, x[:, 0, 3, 4].long() - 1
    return centre // 7 - 3 + padding, centre % 7 - 3 + padding, beside < centre


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(3, 9, 7), (1, 8, 8), (3, 32, 32), (1, 1, 5)])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_it_equals_torchvisions_crop_and_flip_of_each_sample(
    shape: tuple[int, int, int], dtype: torch.dtype, padding: int
) -> None:
    x = images(40, *shape).to(dtype)
    top, left = torch.randint(2 * padding + 1, (2, 40), generator=generator())
    flip = torch.rand(40, generator=generator()) < 0.5
    ours = crop_flip(x, top, left, flip, padding, fill=7)
    assert ours.dtype == dtype
    for i in range(40):
        one = reference.pad(x[i], [padding], fill=7)
        one = reference.crop(one, int(top[i]), int(left[i]), shape[1], shape[2])
        assert torch.equal(ours[i], reference.horizontal_flip(one) if flip[i] else one)


def test_every_place_is_equally_likely_and_flips_have_their_probability() -> None:
    x = CropFlip(padding=2, flip_probability=0.3)(batch(20_000), generator())["x"]
    down, right, mirrored = recovered(x, 2)
    assert abs(float(mirrored.float().mean()) - 0.3) < 0.02
    for moves in (down, right):
        assert moves.bincount(minlength=5).sub(4000).abs().max() < 300
    joint = (down * 5 + right).bincount(minlength=25)
    assert joint.sub(800).abs().max() < 150, "down and right must be independent"


def test_samples_are_drawn_independently_of_each_other_and_of_the_flip() -> None:
    down, right, mirrored = recovered(CropFlip(padding=2)(batch(20_000), generator())["x"], 2)
    for draws in (down, right, mirrored):
        pairs = torch.stack((draws[:-1], draws[1:])).float()
        assert abs(float(torch.corrcoef(pairs)[0, 1])) < 0.03
    assert abs(float(torch.corrcoef(torch.stack((right, mirrored)).float())[0, 1])) < 0.03


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_certain_flips_are_certain(probability: float, share: float) -> None:
    x = CropFlip(padding=1, flip_probability=probability)(batch(100), generator())["x"]
    assert float(recovered(x, 1)[2].float().mean()) == share


def test_the_same_generator_gives_the_same_batch_and_another_step_another() -> None:
    transform, given = CropFlip(), {"x": images(64)}
    first = transform(given, generator(1))["x"]
    assert torch.equal(first, transform(given, generator(1))["x"])
    assert not torch.equal(first, transform(given, generator(2))["x"])


def test_the_global_generator_is_not_used() -> None:
    before = torch.get_rng_state()
    CropFlip()({"x": images(8)}, generator())
    assert torch.equal(before, torch.get_rng_state())


def test_labels_and_the_given_batch_stay_as_they_are() -> None:
    given = batch(32)
    copy = {key: value.clone() for key, value in given.items()}
    out = CropFlip()(given, generator())
    assert out["y"] is given["y"]
    assert out["index"] is given["index"]
    assert all(torch.equal(given[key], copy[key]) for key in given)


def test_a_batch_of_one_and_a_strided_batch_work() -> None:
    assert CropFlip()({"x": images(1)}, generator())["x"].shape == (1, 3, 9, 7)
    x = images(16)
    strided = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(CropFlip()({"x": x}, generator())["x"], CropFlip()({"x": strided}, generator())["x"])


def test_wrong_settings_and_samples_are_explained() -> None:
    with pytest.raises(UserError, match="padding=-1: expected 0 or more"):
        CropFlip(padding=-1)
    with pytest.raises(UserError, match=r"flip_probability=2: expected a value in \[0, 1\]"):
        CropFlip(flip_probability=2)
    with pytest.raises(UserError, match=r"shape \(40,\).*; use augmentation=none"):
        CropFlip()({"x": torch.zeros(8, 40)}, generator())


def test_compose_applies_named_transforms_in_order_and_leaves_out_nulls() -> None:
    given = {"x": images(16)}
    composed = Compose({"first": CropFlip(padding=1), "off": None, "second": CropFlip(padding=2)})
    source = generator()
    by_hand = CropFlip(padding=2)(CropFlip(padding=1)(given, source), source)
    assert torch.equal(composed(given, generator())["x"], by_hand["x"])
    assert Compose()(given, generator()) is given
    assert Compose([None, CropFlip()])(given, generator())["x"].shape == given["x"].shape
