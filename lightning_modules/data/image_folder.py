"""Your own images: files of any mode read as 8-bit RGB, and data sets with one folder per class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from lightning_modules.config.bounds import Count, Whole, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.data.class_folders import read_class_folders, read_in_threads
from lightning_modules.data.files import data_root
from lightning_modules.data.fingerprint import cached_digest, files_digest
from lightning_modules.data.in_memory import InMemoryData, RawDataset
from lightning_modules.data.preprocess import SampleSource, check_constants, standardize

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".pbm", ".tif", ".tiff", ".gif")
COLORS = {"white": (255, 255, 255), "black": (0, 0, 0)}
Background = str | Sequence[int]  # "white", "black" or [r, g, b]


def background_color(background: Background) -> tuple[int, int, int]:
    """Return [r, g, b]. Raises UserError if `background` is not a color."""
    given = COLORS.get(background) if isinstance(background, str) else background
    color = tuple(given) if isinstance(given, Sequence) else ()
    if len(color) != 3 or not all(type(value) is int and 0 <= value <= 255 for value in color):
        raise UserError(f"data.background={background}: expected white, black or [r, g, b] with integers from 0 to 255")
    return color[0], color[1], color[2]


def read_image(path: Path, background: Background = "white") -> Image.Image:
    """Read an image file (of an animation the first frame) as 8-bit RGB, rotated by its EXIF orientation.

    Transparent pixels are composited onto `background`. 16-bit grey values (modes I;16 and I) are scaled from
    0..65535 to 0..255, floating-point ones (mode F) from 0..1.

    Raises UserError if the file is not a readable image, or its values exceed the range of its mode.
    """
    try:
        with Image.open(path) as opened:
            opened.load()  # applies the orientation of a TIFF, which must not be applied twice
            image = _to_8_bit(_upright(opened))
            if image.has_transparency_data:
                backdrop = Image.new("RGBA", image.size, (*background_color(background), 255))
                image = Image.alpha_composite(backdrop, image.convert("RGBA"))
            return image.convert("RGB")
    except UserError:
        raise
    except Exception as error:  # a damaged image may raise almost anything
        raise UserError(f"{path} cannot be read as an image ({error}): repair or remove it") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # an image with damaged metadata is still readable
        return image


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale modes of more than 8 bits to L (with alpha: LA); return other modes unchanged."""
    if not (image.mode == "F" or image.mode.startswith("I")):
        return image
    values = np.asarray(image)
    full = 1 if image.mode == "F" else 65535
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= full):  # NaN too
        raise ValueError(f"its values, mode {image.mode}, range from {low:g} to {high:g}; expected 0 to {full}")
    grey = Image.fromarray((values.astype(np.float64) * (255 / full)).round().astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


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

        Raises UserError if there are no images, a class is unknown or empty, or a file cannot be decoded.
        """
        names, found = read_class_folders(self.root, "images", SUFFIXES)
        train_val = found["train"] + found.get("val", [])
        everything = train_val + found.get("test", [])
        count = len(everything) * 3 * self.image_size**2
        keep = count <= MEMORY_LIMIT if self.keep_in_memory == "auto" else bool(self.keep_in_memory)
        self.num_workers = 0 if keep else self.num_decode_workers
        files, color = tuple(file for file, _ in everything), background_color(self.background)
        digest = cached_digest(self.cache_dir, "files", files, lambda: files_digest(self.root, files))
        return RawDataset(
            *self._store(train_val, keep),
            test=self._store(found["test"], keep) if "test" in found else None,
            class_names=names,
            val=torch.arange(len(found["train"]), len(train_val)) if "val" in found else None,
            content=f"{digest} at {self.image_size}" + ("" if color == COLORS["white"] else f" on {list(color)}"),
        )

    def _store(self, files: list[tuple[Path, int]], keep: bool) -> tuple[SampleSource, Tensor]:
        images = ImageFiles([file for file, _ in files], self.image_size, self.background)
        return images.in_memory() if keep else images, torch.tensor([label for _, label in files])
