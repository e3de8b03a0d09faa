"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017), read from their idx files."""

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from lightning_modules.config.errors import UserError
from lightning_modules.data.files import data_root, require_plausible_gzip
from lightning_modules.data.in_memory import InMemoryData, RawDataset
from lightning_modules.data.preprocess import SampleSource, constants_problems, standardize


def read_idx(path: Path) -> Tensor:
    """Return the uint8 tensor in an idx file. Raises UserError if the file is damaged or of another format."""
    open_file: Any = gzip.open if path.suffix == ".gz" else Path.open
    try:
        with open_file(path, "rb") as file:
            start = file.read(4)
            if len(start) < 4 or start[:3] != b"\x00\x00\x08" or not start[3]:
                raise UserError(
                    f"{path} is not an idx file of bytes: it starts with {start.hex(' ')}, expected 00 00 08 0N"
                )
            lengths = np.frombuffer(file.read(4 * start[3]), ">u4").tolist()
            size = math.prod(lengths)
            require_plausible_gzip(path, size)
            content = file.read(size + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}): download it again") from error
    if len(lengths) != start[3] or len(content) != size:
        raise UserError(
            f"{path} is damaged: its header declares {'x'.join(map(str, lengths))} bytes of data, but it contains "
            f"{'more' if len(content) > size else len(content)}: download it again"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8).reshape(lengths).copy())


IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


class MNIST(InMemoryData):
    """uint8 [1, 28, 28]; 60,000 samples for training and validation, 10,000 in the official test part.

    Args:
        root: data folder; default the environment's TOUCHSTONE_DATA, else ``data/`` of the project.
        download: download missing files into `root`.
        mean, std: one number each, of pixels in [0, 1]; null computes them on the training part.
    """

    name = "mnist"
    domain = "image"
    folder = "MNIST"
    class_labels: tuple[str, ...] = tuple(str(digit) for digit in range(10))
    elsewhere: tuple[Path, ...] = ()
    hint = ""

    def __init__(
        self,
        *,
        root: str | Path | None = None,
        download: bool = False,
        mean: Sequence[float] | None = (0.1307,),
        std: Sequence[float] | None = (0.3081,),
        **settings: Any,
    ) -> None:
        self.root = data_root(root)
        self.download = download
        self.mean = mean
        self.std = std
        super().__init__(**settings)

    def problems(self) -> list[str]:
        """Also check `mean` and `std`."""
        return super().problems() + constants_problems(self.mean, self.std)

    def load(self) -> RawDataset:
        """Find and read the four files.

        Raises:
            UserError: the files are missing, damaged or inconsistent.
        """
        files = self.files()
        images, labels, test_images, test_labels = (read_idx(file) for file in files)
        for (x, x_file), (y, y_file) in (
            ((images, files[0]), (labels, files[1])),
            ((test_images, files[2]), (test_labels, files[3])),
        ):
            if x.ndim != 3 or y.shape != x.shape[:1] or int(y.max()) >= len(self.class_labels):
                shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
                raise UserError(f"{x_file} and {y_file} do not match: {shapes}, labels up to {int(y.max())}")
        test = (test_images.unsqueeze(1), test_labels.long())
        return RawDataset(images.unsqueeze(1), labels.long(), test, list(self.class_labels), files=files)

    def files(self) -> tuple[Path, ...]:
        """Return the four files, downloaded if `download` is set. Raises UserError if they are missing."""
        raw = self.root / self.folder / "raw"
        folders = (raw, self.root, *self.elsewhere)
        if found := _first_complete(folders):
            return found
        if self.download:
            from torchvision import datasets

            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / f".{self.folder}.lock"):  # ranks and parallel jobs download once
                if not _first_complete((raw,)):
                    getattr(datasets, self.folder)(str(self.root), download=True)
            if found := _first_complete((raw,)):
                return found
        raise UserError(
            f"{self.name} was not found. Looked for {', '.join(IDX_FILES)} (or .gz) in:\n"
            + "\n".join(f"  {folder}" for folder in folders)
            + f"\nDownload it with data.download=true{self.hint}, or set data.root or TOUCHSTONE_DATA to its folder"
        )

    def build_preprocess(self, x: SampleSource, train: Tensor) -> nn.Module:
        """Standardize."""
        return standardize(x, train, self.mean, self.std)


class FashionMNIST(MNIST):
    """Like MNIST; also found in the folder of Debian's package dataset-fashion-mnist."""

    name = "fashion_mnist"
    folder = "FashionMNIST"
    class_labels = FASHION_CLASSES
    elsewhere = (DEBIAN_FOLDER,)
    hint = " or apt-get install dataset-fashion-mnist"

    def __init__(
        self,
        *,
        mean: Sequence[float] | None = (0.2860,),
        std: Sequence[float] | None = (0.3530,),
        **settings: Any,
    ) -> None:
        super().__init__(mean=mean, std=std, **settings)


def _first_complete(folders: Sequence[Path]) -> tuple[Path, ...] | None:
    for folder in folders:
        found = [next((p for p in (folder / f, folder / f"{f}.gz") if p.is_file()), None) for f in IDX_FILES]
        if all(found):
            return tuple(path for path in found if path)
    return None
