"""The same image transforms in four libraries, of a batch or a sample. Longer than 200 lines: each is written four times."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple


class Rivals(NamedTuple):
    """What does the same, each for its own samples; None where a library has nothing like it."""

    ours: Any
    torchvision: Any = None  # a function of one uint8 image [C, H, W]
    albumentations: Any = None  # of one uint8 image [H, W, C]
    kornia: Any = None  # of a batch of float images [B, C, H, W] in 0..1
    bar: float | None = 3.0


def rivals(shape: tuple[int, int, int]) -> dict[str, Rivals]:
    """All transforms of images, for images of this shape; one channel has no colours to change."""
    found = {"crop and flip": _crop_and_flip(shape), **_geometric(shape), **_colours(shape), **_covering()}
    return {**found, **_policies(shape[0] == 3), **_mixing()}


def optional(package: str, build: Callable[[Any], Any]) -> Any:
    """What `build` makes of the package, or None where that is not installed."""
    import importlib

    return build(importlib.import_module(package)) if find_spec(package.partition(".")[0]) else None


def _alb(build: Callable[[Any], Any]) -> Any:
    return optional("albumentations", build)


def _kor(build: Callable[[Any], Any]) -> Any:
    return optional("kornia.augmentation", build)


def _crop_and_flip(shape: tuple[int, int, int]) -> Rivals:
    from torchvision.transforms import v2

    from lightning_modules.augmentation.image.crop_flip import CropFlip

    side = shape[1]
    return Rivals(
        CropFlip(),
        v2.Compose([v2.RandomCrop(side, padding=4), v2.RandomHorizontalFlip()]),
        _alb(lambda a: a.Compose([a.Pad(4), a.RandomCrop(side, side), a.HorizontalFlip()])),
        _kor(lambda k: k.AugmentationSequential(k.RandomCrop((side, side), padding=4), k.RandomHorizontalFlip())),
        bar=20,
    )


def _geometric(shape: tuple[int, int, int]) -> dict[str, Rivals]:
    from torchvision.transforms import v2

    from lightning_modules.augmentation.image import affine, crop_flip

    side, smooth = shape[1], v2.InterpolationMode.BILINEAR
    four = {"degrees": 15.0, "translate": (0.1, 0.1), "scale": (0.9, 1.1)}
    return {
        "horizontal flip": Rivals(
            crop_flip.HorizontalFlip(),
            v2.RandomHorizontalFlip(),
            _alb(lambda a: a.HorizontalFlip()),
            _kor(lambda k: k.RandomHorizontalFlip()),
        ),
        "vertical flip": Rivals(
            crop_flip.VerticalFlip(),
            v2.RandomVerticalFlip(),
            _alb(lambda a: a.VerticalFlip()),
            _kor(lambda k: k.RandomVerticalFlip()),
        ),
        "resized crop": Rivals(
            crop_flip.RandomResizedCrop(),
            v2.RandomResizedCrop(side),
            _alb(lambda a: a.RandomResizedCrop((side, side))),
            _kor(lambda k: k.RandomResizedCrop((side, side))),
        ),
        "rotation": Rivals(
            affine.Affine(15),
            v2.RandomRotation(15, smooth),
            _alb(lambda a: a.Rotate(15, p=1)),
            _kor(lambda k: k.RandomRotation(15.0, p=1)),
        ),
        "affine": Rivals(
            affine.Affine(shear=5, **four),  # type: ignore[arg-type]
            v2.RandomAffine(shear=(-5, 5), interpolation=smooth, **four),
            _alb(lambda a: a.Affine((0.9, 1.1), (-0.1, 0.1), rotate=(-15, 15), shear=(-5, 5), p=1)),
            _kor(lambda k: k.RandomAffine(shear=5.0, p=1, **four)),
        ),
    }


def _colours(shape: tuple[int, int, int]) -> dict[str, Rivals]:
    from torchvision.transforms import v2

    from lightning_modules.augmentation.image.photometric import ColorJitter, Grayscale
    from lightning_modules.augmentation.image.policies import TrivialAugment

    coloured = shape[0] == 3
    parts = {"brightness": 0.4, "contrast": 0.4} | ({"saturation": 0.4, "hue": 0.1} if coloured else {})
    found = {
        name: Rivals(
            ColorJitter(**{name: value}),
            v2.ColorJitter(**{name: value}),
            _alb(lambda a, only=name, value=value: a.ColorJitter(**(dict.fromkeys(parts, 0) | {only: value}), p=1)),
            _kor(lambda k, name=name, value=value: k.ColorJitter(**{name: value}, p=1)) if coloured else None,
        )
        for name, value in parts.items()
    }
    found["colour jitter"] = Rivals(
        ColorJitter(**parts),
        v2.ColorJitter(**parts),
        _alb(lambda a: a.ColorJitter(**(dict.fromkeys(("saturation", "hue"), 0) | parts), p=1)),
        _kor(lambda k: k.ColorJitter(**parts, p=1)) if coloured else None,
    )
    if coloured:
        gray = _alb(lambda a: a.ToGray(p=1))
        found["grayscale"] = Rivals(
            Grayscale(1.0), v2.RandomGrayscale(1.0), gray, _kor(lambda k: k.RandomGrayscale(p=1))
        )
    singles: dict[str, tuple[Any, Any, Any]] = {  # an operation of the policies alone
        "sharpness": (
            v2.RandomAdjustSharpness(1.5, 1.0),
            _alb(lambda a: a.Sharpen(p=1)),
            _kor(lambda k: k.RandomSharpness(0.5, p=1)),
        ),
        "solarize": (
            v2.RandomSolarize(128, 1.0),
            _alb(lambda a: a.Solarize(p=1)),
            _kor(lambda k: k.RandomSolarize(p=1)),
        ),
        "posterize": (
            v2.RandomPosterize(4, 1.0),
            _alb(lambda a: a.Posterize(4, p=1)),
            _kor(lambda k: k.RandomPosterize(4, p=1)),
        ),
        "autocontrast": (
            v2.RandomAutocontrast(1.0),
            _alb(lambda a: a.AutoContrast(p=1)),
            _kor(lambda k: k.RandomAutoContrast(p=1)),
        ),
        "equalize": (
            v2.RandomEqualize(1.0),
            _alb(lambda a: a.Equalize(p=1)),
            _kor(lambda k: k.RandomEqualize(p=1)),
        ),
    }
    return found | {name: Rivals(TrivialAugment(operations=[name]), *others) for name, others in singles.items()}


def _covering() -> dict[str, Rivals]:
    import torch
    from torchvision.transforms import v2

    from lightning_modules.augmentation.image.erasing import Cutout, RandomErasing
    from lightning_modules.augmentation.image.photometric import GaussianBlur, GaussianNoise

    def noisy(x: Any) -> Any:
        return v2.functional.gaussian_noise(x, 0.0, 0.1 * float(torch.rand(())))

    return {
        "gaussian blur": Rivals(
            GaussianBlur(3, probability=1.0),
            v2.GaussianBlur(3),
            _alb(lambda a: a.GaussianBlur(3, (0.1, 2.0), p=1)),
            _kor(lambda k: k.RandomGaussianBlur((3, 3), (0.1, 2.0), p=1)),
            bar=None,
        ),
        "gaussian noise": Rivals(
            GaussianNoise(probability=1.0),
            noisy,
            _alb(lambda a: a.GaussNoise((0.0, 0.1), p=1)),
            _kor(lambda k: k.RandomGaussianNoise(std=0.1, p=1)),
            bar=None,
        ),
        "random erasing": Rivals(
            RandomErasing(probability=1.0),
            v2.RandomErasing(1.0, (0.02, 0.4), value="random"),
            _alb(lambda a: a.Erasing((0.02, 0.4), fill="random", p=1)),
            _kor(lambda k: k.RandomErasing((0.02, 0.4), p=1)),
            bar=None,
        ),
        "cutout": Rivals(
            Cutout(16), None, _alb(lambda a: a.CoarseDropout((1, 1), (16, 16), (16, 16), p=1)), None, bar=None
        ),
    }


def _policies(coloured: bool) -> dict[str, Rivals]:
    from torchvision.transforms import v2

    from lightning_modules.augmentation.image.policies import AugMix, AutoAugment, RandAugment, TrivialAugment

    cifar = v2.AutoAugmentPolicy.CIFAR10
    return {
        "RandAugment": Rivals(
            RandAugment(), v2.RandAugment(), None, _kor(lambda k: k.auto.RandAugment(2, 9)) if coloured else None
        ),
        "TrivialAugment": Rivals(
            TrivialAugment(),
            v2.TrivialAugmentWide(),
            None,
            _kor(lambda k: k.auto.TrivialAugment()) if coloured else None,
        ),
        "AutoAugment": Rivals(
            AutoAugment(),
            v2.AutoAugment(cifar),
            None,
            _kor(lambda k: k.auto.AutoAugment("cifar10")) if coloured else None,
        ),
        "AugMix": Rivals(AugMix(), v2.AugMix(all_ops=False)),
    }


def _mixing() -> dict[str, Rivals]:
    from lightning_modules.augmentation.mixup import CutMix, Mixup

    mixup, cutmix = Mixup(), CutMix()
    mixup.num_classes = cutmix.num_classes = 10
    return {"mixup": Rivals(mixup, bar=None), "CutMix": Rivals(cutmix, bar=None)}
