"""Your own images: one folder per class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from lightning_modules.config.bounds import Count, Whole, bounded
from lightning_modules.data.class_folders import read_class_folders, read_in_threads
from lightning_modules.data.files import data_root
from lightning_modules.data.fingerprint import cached_digest, files_digest
from lightning_modules.data.image_file import COLORS, SUFFIXES, Background, background_color, read_image
from lightning_modules.data.in_memory import InMemoryData, RawDataset
from lightning_modules.data.preprocess import SampleSource, check_constants, standardize

MEMORY_LIMIT = 2e9  # bytes up to which in_memory=auto decodes a set once


def decode(path: Path, size: int, background: Background = "white") -> Tensor:
    """Return an image as uint8 RGB [3, size, size], center-cropped. Raises UserError if it is not readable."""
    image = ImageOps.fit(read_image(path, background), (size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


class ImageFiles:
    """Images that are decoded on access (a `SampleSource`)."""

    dtype = torch.uint8

    def __init__(self, files: Sequence[Path], size: int, background: Background = "white") -> None:
        self.files = files
        self.size = size
        self.background = background
        self.shape = torch.Size((len(files), 3, size, size))

    def __len__(self) -> int:
        return len(self.files)

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Decode the images of `index` (`dim` is 0)."""
        return torch.stack([decode(self.files[i], self.size, self.background) for i in index.tolist()])

    def in_memory(self) -> Tensor:
        """Decode all images. Raises UserError listing all files that are not readable images."""
        out = torch.empty(self.shape, dtype=torch.uint8)
        for i, image in enumerate(read_in_threads(lambda file: decode(file, self.size, self.background), self.files)):
            out[i] = image
        return out


class ImageData(InMemoryData):
    """Images that are standardized per channel.

    Args:
        mean, std: of pixels in [0, 1], one number or one per channel; null computes them on the training part.
    """

    domain = "image"

    def __init__(
        self, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None, **settings: Any
    ) -> None:
        check_constants(mean, std)
        self.mean, self.std = mean, std
        super().__init__(**settings)

    def build_preprocess(self, x: SampleSource, train: Tensor) -> nn.Module:
        """Standardize per channel."""
        return standardize(x, train, self.mean, self.std)


class ImageFolder(ImageData):
    """uint8 [3, image_size, image_size] from ``root/{train,val,test}/CLASS/*`` or ``root/CLASS/*``.

    Without a ``val`` or ``test`` folder, that part is split off by its fraction; `class_folders.py` lists
    alternative folder names.

    Args:
        root: default ``images`` in the data folder.
        in_memory: true decodes all images once, false decodes them on access in `num_workers` processes,
            "auto" chooses true up to 2 GB.
        background: behind transparent pixels: "white", "black" or [r, g, b].
    """

    name = "image_folder"

    @bounded
    def __init__(
        self,
        *,
        root: str | Path | None = None,
        image_size: Count = 64,
        in_memory: Literal[True, False, "auto"] = "auto",
        num_workers: Whole = 2,
        background: Background = "white",
        **settings: Any,
    ) -> None:
        background_color(background)
        self.root = Path(root).expanduser() if root else data_root() / "images"
        self.image_size, self.background = image_size, background
        self.keep_in_memory = in_memory  # Lightning has a property of the plain name
        self.num_decode_workers = num_workers
        super().__init__(**settings)

    def load(self) -> RawDataset:
        """List the files, and decode them if they are kept in memory.

        Raises:
            UserError: there are no images, a class is unknown or empty, or a file cannot be decoded.
        """
        folders = read_class_folders(self.root, "images", SUFFIXES)
        found = folders.parts
        train_val = found["train"] + found.get("val", [])
        everything = train_val + found.get("test", [])
        count = len(everything) * 3 * self.image_size**2
        keep = count <= MEMORY_LIMIT if self.keep_in_memory == "auto" else bool(self.keep_in_memory)
        self.num_workers = 0 if keep else self.num_decode_workers
        files = tuple(file for file, _ in everything)
        digest = cached_digest(self.cache_dir, "files", files, lambda: files_digest(self.root, files))
        return RawDataset(
            *self._store(train_val, keep),
            test=self._store(found["test"], keep) if "test" in found else None,
            class_names=folders.class_names,
            val=torch.arange(len(found["train"]), len(train_val)) if "val" in found else None,
            content=f"{digest} at {self.image_size}" + self._background_suffix(),
        )

    def _store(self, files: list[tuple[Path, int]], keep: bool) -> tuple[SampleSource, Tensor]:
        images = ImageFiles([file for file, _ in files], self.image_size, self.background)
        return images.in_memory() if keep else images, torch.tensor([label for _, label in files])

    def _background_suffix(self) -> str:
        color = background_color(self.background)
        return "" if color == COLORS["white"] else f" on {list(color)}"
