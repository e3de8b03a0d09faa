"""Your own images with masks, files of the same stem in two folders."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_modules.config.bounds import Count, Whole, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.data.class_folders import PART_FOLDERS, read_in_threads, reason_to_skip, warn_of_skipped
from lightning_modules.data.files import data_root, require_memory
from lightning_modules.data.fingerprint import cached_digest, files_digest
from lightning_modules.data.image_folder import SUFFIXES, ImageData, read_image
from lightning_modules.data.in_memory import Batch, RawDataset
from lightning_modules.data.split import split, subsample
from lightning_modules.zoo.data.masks import ClassValues, overlay, read_mask

Pair = tuple[Path, Path]  # image and mask


class SegmentationFolder(ImageData):
    """uint8 images [C, H, W], and the class of each pixel, uint8 [H, W], with 255 for ignored pixels.

    They are ``root/images/*`` and ``root/masks/*``, or those folders within ``root/{train,val,test}``; without a folder of
    its own a part is split off by its fraction. All of it is in memory.

    Args:
        root: relative to the data folder, or absolute.
        images, masks: names of the folders.
        classes: value of each class in the masks, by name; None: all values that occur.
        ignore: value of pixels that are neither trained on nor counted.
        image_size: side, or height and width, to which all are resized; None: all have the same size.
        gray: read images as one channel.
        in_order: split in the order of names, training first: neighbouring slices of a volume, or frames of a film, are alike.
        name: of the data set.
    """

    @bounded
    def __init__(
        self,
        *,
        root: str | Path = "segmentation",
        images: str = "images",
        masks: str = "masks",
        classes: Mapping[str, int] | None = None,
        ignore: Whole | None = None,
        image_size: Count | Sequence[Count] | None = None,
        gray: bool = False,
        in_order: bool = False,
        name: str | None = None,
        **settings: Any,
    ) -> None:
        self.root = data_root() / Path(root).expanduser()
        self.image_folder, self.mask_folder, self.name = images, masks, name or self.root.name
        self.classes, self.ignore, self.gray, self.in_order = dict(classes) if classes else None, ignore, gray, in_order
        sides = [image_size] * 2 if isinstance(image_size, int) else image_size
        self.image_size = None if sides is None else (int(sides[1]), int(sides[0]))  # as Pillow's: width, height
        super().__init__(**settings)
        if in_order and (self.plan.folds or self.plan.per_class):
            raise UserError(
                "data.in_order=true: the images are split in their order, without data.folds and data.per_class"
            )

    def load(self) -> RawDataset:
        """Read all images and masks.

        Raises UserError naming the files if a mask is missing, has another size or unknown values, or one cannot be read.
        """
        parts = self._find_parts()
        pairs = [pair for part in ("train", "val", "test") for pair in parts.get(part, [])]
        mask_of = dict(pairs)
        size = self.image_size or read_image(pairs[0][0]).size
        require_memory(self.root, len(pairs) * size[0] * size[1] * (2 if self.gray else 4))
        read = list(read_in_threads(lambda path: self._read(path, mask_of[path], size), list(mask_of)))
        values = {mask: found for (_, mask), (_, found) in zip(pairs, read, strict=True)}
        known = ClassValues(self.classes, self.ignore, values)
        x = torch.stack([image for image, _ in read])
        y = torch.stack(list(read_in_threads(lambda path: known.encode(path, values[path]), list(values))))
        train, val, test = (len(parts.get(part, [])) for part in ("train", "val", "test"))
        files = tuple(chain(*pairs))
        digest = cached_digest(self.cache_dir, "files", files, lambda: files_digest(self.root, files))
        how = json.dumps([known.names, self.ignore, self.image_size, self.gray])
        return RawDataset(
            x[: train + val],
            y[: train + val],
            test=(x[train + val :], y[train + val :]) if test else None,
            val=torch.arange(train, train + val) if val else None,
            class_names=known.names,
            content=hashlib.sha256(f"{digest} {how}".encode()).hexdigest(),
        )

    def _find_parts(self) -> dict[str, list[Pair]]:
        parts = {
            part: self._pairs(folder)
            for part, names in PART_FOLDERS.items()
            for folder in (self.root / name for name in names)
            if (folder / self.image_folder).is_dir()
        }
        if parts and (self.in_order or "train" not in parts):
            given = f"{self.root} has folders of the parts {', '.join(parts)}"
            raise UserError(f"{given}: {'remove data.in_order' if self.in_order else 'there must be one named train'}")
        return parts or {"train": self._pairs(self.root)}

    def _pairs(self, folder: Path) -> list[Pair]:
        images, masks = (self._files(folder / name) for name in (self.image_folder, self.mask_folder))
        for stem, path in chain(images.items(), masks.items()):
            if stem not in images or stem not in masks:
                lacking, place = ("image", self.image_folder) if stem in masks else ("mask", self.mask_folder)
                raise UserError(
                    f"{path} has no {lacking}: expected {folder / place / stem} with the suffix of an image"
                )
        return [(path, masks[stem]) for stem, path in images.items()]

    def _files(self, folder: Path) -> dict[str, Path]:
        """The images of a folder by stem, in the order of their names, numbers by value."""
        if not folder.is_dir():
            raise UserError(f"data={self.name}: there is no folder {folder}; set data.root, data.images and data.masks")
        reasons = {path: reason_to_skip(path, SUFFIXES) for path in folder.iterdir() if path.is_file()}
        found = [path for path, reason in reasons.items() if reason is None]
        found.sort(key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem)])
        warn_of_skipped(folder, Counter(filter(None, reasons.values())), len(found))
        by_stem = {path.stem: path for path in found}
        if not found or len(by_stem) < len(found):
            several = [path.name for path in found if by_stem[path.stem] != path]
            raise UserError(f"{folder} has {f'several files named as {several[0]}' if several else 'no images'}")
        return by_stem

    def _read(self, path: Path, mask_path: Path, size: tuple[int, int]) -> tuple[Tensor, np.ndarray]:
        """Return an image, uint8 [C, H, W], and the values of its mask, [H, W]."""
        image, mask = read_image(path), read_mask(mask_path)
        if image.size != mask.size:
            raise UserError(f"{mask_path} has {_pixels(mask.size)}, but its image {path} has {_pixels(image.size)}")
        if self.image_size:
            image = image.resize(size, Image.Resampling.BILINEAR)
            mask = mask.resize(size, Image.Resampling.NEAREST)
        elif image.size != size:
            raise UserError(f"{path} has {_pixels(image.size)}, the first has {_pixels(size)}: set data.image_size")
        pixels = np.array(image.convert("L"))[..., None] if self.gray else np.array(image)
        values = np.asarray(mask)
        return torch.from_numpy(pixels).permute(2, 0, 1), values.astype(np.uint8) if mask.mode == "1" else values

    def build_split(self, arrays: RawDataset) -> dict[str, Tensor]:
        """Return the images of each part, at random or in their order; they are not stratified."""
        places = torch.arange(len(arrays.y), dtype=torch.float32)  # no classes
        if not self.in_order:
            return split(places, self.plan, None if arrays.test is None else len(arrays.test[1]), arrays.val)
        count = len(places)
        val, test = (round(share * count) for share in (self.plan.val_fraction, self.plan.test_fraction))
        first, *others = torch.arange(count).split([count - val - test, val, test])
        return dict(zip(("train", "val", "test"), (subsample(places, first, self.plan, None), *others), strict=True))

    def _describe_classes(self, arrays: RawDataset, train: Tensor) -> None:
        self.class_names = arrays.class_names or []
        self.num_classes = self.num_targets = len(self.class_names)
        self.class_counts = arrays.y[train].flatten().bincount(minlength=256)[: self.num_classes]  # pixels

    def example(self, count: int) -> Tensor:
        """Return at most two raw images: a served model's examples are recorded as text."""
        return super().example(min(count, 2))

    def picture(self, batch: Batch) -> Tensor:
        """Return uint8 [B, 3, H, W] of a raw batch: the images with the colours of their masks."""
        return overlay(batch["x"], batch["y"])


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]} pixels"
