"""What every transform of images keeps to: randomness, dtypes, formats and the given batch."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.augmentation.image.affine import Affine
from lightning_modules.augmentation.image.crop_flip import CropFlip, HorizontalFlip, RandomResizedCrop, VerticalFlip
from lightning_modules.augmentation.image.erasing import Cutout, RandomErasing
from lightning_modules.augmentation.image.image_transform import ImageTransform
from lightning_modules.augmentation.image.photometric import ColorJitter, GaussianBlur, GaussianNoise, Grayscale
from lightning_modules.augmentation.image.policies import AugMix, AutoAugment, RandAugment, TrivialAugment
from lightning_modules.augmentation.mixup import CutMix, Mixup
from lightning_modules.config.errors import UserError


def mixing(kind: Callable[[], CutMix | Mixup]) -> nn.Module:
    transform = kind()
    transform.num_classes = 10
    return transform


SINGLE: dict[str, Callable[[], ImageTransform]] = {
    "affine": lambda: Affine(15, 0.1, (0.9, 1.1), (5, 5), fill=20),
    "resized crop": RandomResizedCrop,
    "horizontal flip": HorizontalFlip,
    "vertical flip": VerticalFlip,
    "jitter": lambda: ColorJitter(0.4, 0.4, 0.4, 0.1),
    "gray": lambda: Grayscale(0.5),
    "blur": lambda: GaussianBlur(3),
    "noise": GaussianNoise,
    "erasing": RandomErasing,
    "randaugment": RandAugment,
    "trivialaugment": TrivialAugment,
    "autoaugment": AutoAugment,
    "augmix": AugMix,
}
ALL: dict[str, Callable[[], nn.Module]] = {
    **SINGLE,
    "crop and flip": CropFlip,
    "cutout": lambda: Cutout(4),
    "mixup": lambda: mixing(Mixup),
    "cutmix": lambda: mixing(CutMix),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 32, channels: int = 3, height: int = 9, width: int = 7) -> Tensor:
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=seeded(7))


def batch(x: Tensor) -> dict[str, Tensor]:
    return {"x": x, "y": torch.arange(len(x)) % 10, "index": torch.arange(len(x))}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(32, 3, 9, 7), (32, 1, 8, 8), (1, 3, 5, 6), (2, 1, 2, 3)])
def test_shape_dtype_and_range_are_kept(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = images(*shape)
    given = batch(x if dtype == torch.uint8 else (x / 255).to(dtype))
    transform = Affine(15, fill=0.1) if name == "affine" else ALL[name]()
    out = transform(given, seeded())["x"]
    assert (out.shape, out.dtype) == (given["x"].shape, dtype)
    assert out.isfinite().all()
    assert out.min() >= -1e-3
    assert out.max() <= (255 if dtype == torch.uint8 else 1.001)
    assert not out.requires_grad


@pytest.mark.parametrize("name", ALL)
def test_the_same_generator_gives_the_same_batch_and_the_global_one_is_not_used(name: str) -> None:
    transform, given, before = ALL[name](), batch(images()), torch.get_rng_state()
    first, again, other = (transform(given, seeded(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["x"], other["x"])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ALL)
def test_the_given_batch_stays_and_so_do_targets_that_are_not_mixed(name: str) -> None:
    given = batch(images())
    copy = {key: value.clone() for key, value in given.items()}
    out = ALL[name]()(given, seeded())
    assert all(torch.equal(given[key], copy[key]) for key in given)
    assert torch.equal(out["index"], given["index"])
    assert name in ("mixup", "cutmix") or torch.equal(out["y"], given["y"])


@pytest.mark.parametrize("name", ALL)
def test_a_batch_that_lies_channels_last_stays_so_and_gives_the_same(name: str) -> None:
    x = images()
    last = ALL[name]()(batch(x.contiguous(memory_format=torch.channels_last)), seeded())["x"]
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, ALL[name]()(batch(x), seeded())["x"])


@pytest.mark.parametrize("name", ALL)
def test_equal_images_are_changed_independently_of_each_other(name: str) -> None:
    x = images(1, height=16, width=16).expand(64, -1, -1, -1).contiguous()
    transform = ALL[name]()
    if name in ("mixup", "cutmix"):
        out = transform(batch(images(64)), seeded())["y"].amax(1)
        least = 15
    else:
        out = transform(batch(x), seeded())["x"].flatten(1)
        least = 2 if name in ("horizontal flip", "vertical flip", "gray") else 12
    assert len(out.unique(dim=0)) >= least


@pytest.mark.parametrize("name", SINGLE)
def test_a_probability_is_that_of_each_image(name: str) -> None:
    transform = SINGLE[name]()
    x = images(2000, height=6, width=6)
    assert torch.equal(never(transform)(batch(x), seeded())["x"], x)
    transform.probability = 0.3
    share = (transform(batch(x), seeded())["x"] != x).flatten(1).any(1).float().mean()
    certain = transform.__class__ in (
        RandAugment,
        TrivialAugment,
        AutoAugment,
        AugMix,
        RandomResizedCrop,
        GaussianNoise,
    )
    assert share < 0.34
    assert share > (0.1 if certain else 0.24)


def never(transform: ImageTransform) -> ImageTransform:
    transform.probability = 0.0
    return transform


@pytest.mark.parametrize("name", SINGLE)
def test_precision_does_not_suffer_below_autocast(name: str) -> None:
    given = batch(images(height=24, width=24).float() / 255)
    with torch.autocast("cpu", torch.bfloat16):
        low = SINGLE[name]()(given, seeded())["x"]
    assert torch.equal(low, SINGLE[name]()(given, seeded())["x"])


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("wrong", [2, -0.1])
def test_a_probability_beyond_0_to_1_is_refused(name: str, wrong: float) -> None:
    kind = type(SINGLE[name]())
    with pytest.raises(UserError, match=rf"{kind.__name__}\.probability={wrong}: expected a value in \[0, 1\]"):
        kind(probability=wrong)


@pytest.mark.parametrize("name", [name for name in ALL if name != "mixup"])
def test_samples_that_are_no_images_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"\(40,\)"):
        ALL[name]()(batch(torch.zeros(8, 40)), seeded())


@pytest.mark.parametrize("name", SINGLE)
def test_whole_numbers_other_than_uint8_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"uint8 or float values, but .* type int64"):
        SINGLE[name]()(batch(images().long()), seeded())


@pytest.mark.parametrize("name", ["jitter", "gray", "randaugment", "trivialaugment", "autoaugment", "augmix"])
def test_colours_need_one_or_three_channels(name: str) -> None:
    with pytest.raises(UserError, match=r"1 or 3 channels, but a sample has shape \(4, 9, 7\)"):
        SINGLE[name]()(batch(images(channels=4)), seeded())


@pytest.mark.gpu
@pytest.mark.parametrize("name", ALL)
def test_a_gpu_gives_what_the_cpu_gives(name: str) -> None:
    given = batch(images(64, height=32, width=32))
    there = ALL[name]()({key: value.cuda() for key, value in given.items()}, seeded())
    here = ALL[name]()(given, seeded())
    assert there["x"].is_cuda
    off = there["x"].cpu().int().sub(here["x"].int()).abs()
    assert (off > 2).float().mean() < 0.005, "single pixels on the edge between two of the nearest"
    assert torch.allclose(there["y"].cpu().float(), here["y"].float())
