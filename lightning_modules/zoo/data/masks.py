"""Masks: files with a class for each pixel, and their colours."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_modules.augmentation.image.masks import IGNORED
from lightning_modules.config.errors import UserError

MAX_INFERRED = 32  # values of masks that may become classes unless they are named
_COLOURS = "0072b2 d55e00 009e73 cc79a7 e69f00 56b4e9 f0e442 999999"  # Okabe & Ito 2008, with gray


def palette() -> np.ndarray:
    """Return the colours of the 256 class numbers, uint8 [256, 3]: eight that repeat; ignored pixels are white."""
    base = np.frombuffer(bytes.fromhex(_COLOURS.replace(" ", "")), np.uint8).reshape(-1, 3)
    colours = np.resize(base, (256, 3))
    colours[IGNORED] = 255
    return colours


def overlay(images: Tensor, masks: Tensor, share: float = 0.4) -> Tensor:
    """Blend the colours of masks [B, H, W] into uint8 images [B, C, H, W]; return uint8 [B, 3, H, W]."""
    colours = torch.from_numpy(palette())[masks.long()].permute(0, 3, 1, 2).float()
    return (images[:, :3].float() * (1 - share) + colours * share).round().to(torch.uint8)


def read_mask(path: Path) -> Image.Image:
    """Read a mask: an image of one channel, or of a palette, whose numbers are then the values.

    Raises UserError if it is not readable or has several channels.
    """
    try:
        with Image.open(path) as opened:
            opened.load()
            image = opened.copy()
    except Exception as error:  # a damaged image may raise almost anything
        raise UserError(f"{path} cannot be read as a mask ({error}): repair or remove it") from error
    if len(image.getbands()) > 1 or image.mode == "F":
        raise UserError(f"{path} has the mode {image.mode}: expected a mask of whole numbers in one channel")
    return image


class ClassValues:
    """The classes of masks, and the value of each in the files.

    Args:
        classes: values by name; None: all values that occur.
        ignore: the value of pixels without a class.
        masks: values [H, W] of the masks, by file.
    """

    def __init__(self, classes: Mapping[str, int] | None, ignore: int | None, masks: Mapping[Path, np.ndarray]) -> None:
        if classes is None:
            found = sorted(set().union(*(np.unique(mask).tolist() for mask in masks.values())) - {ignore})
            if len(found) > MAX_INFERRED:
                raise UserError(
                    f"{next(iter(masks)).parent}: the masks have {len(found)} different values; name the classes, as in "
                    "data.classes={background: 0, cell: 255}"
                )
            classes = {str(value): int(value) for value in found}
        if len(classes) < 2 or len(set(classes.values()) - {ignore}) < len(classes) or len(classes) > IGNORED:
            listed = ", ".join(f"{name}: {value}" for name, value in classes.items())
            raise UserError(
                f"data.classes={{{listed}}} with data.ignore={ignore}: expected 2 to {IGNORED} classes with different values"
            )
        self.names, self.ignore = list(classes), ignore
        self._values = np.array([*classes.values(), *([] if ignore is None else [ignore])])
        self._order = np.argsort(self._values)

    def encode(self, path: Path, mask: np.ndarray) -> Tensor:
        """Return the class number of each pixel of a mask, uint8 [H, W]. Raises UserError for unknown values."""
        place = np.searchsorted(self._values, mask, sorter=self._order).clip(max=len(self._values) - 1)
        classes = self._order[place]
        if (wrong := self._values[classes] != mask).any():
            unknown = np.unique(mask[wrong])
            listed = ", ".join(map(str, unknown[:8])) + " …" * (len(unknown) > 8)
            known = ", ".join(map(str, self._values))
            raise UserError(
                f"{path} has the values {listed}, which are no class: expected {known} (data.classes, data.ignore)"
            )
        return torch.from_numpy(np.where(classes == len(self.names), IGNORED, classes).astype(np.uint8))
