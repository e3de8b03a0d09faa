"""Small images: digits, MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100.

The files are read here and not by torchvision, which unpickles CIFAR's and names no damaged file.
Longer than 200 lines for this reason.
"""

import codecs
import gzip
import math
import pickle
import zlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from sklearn.datasets import load_digits
from torch import Tensor

from lightning_modules.config.errors import UserError
from lightning_modules.data.files import data_root, require_plausible_gzip
from lightning_modules.data.image_folder import ImageData
from lightning_modules.data.in_memory import RawDataset

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
PIXELS = 3 * 32 * 32  # of CIFAR
_RECONSTRUCT_ARRAY = np.empty(0).__reduce__()[0]
ALLOWED = {  # what a CIFAR file needs to rebuild its NumPy arrays; everything else is rejected
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT_ARRAY,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT_ARRAY,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
}


class Digits(ImageData):
    """uint8 [1, 8, 8], 1797 digits with 17 grey levels scaled to 0..255 (Alpaydin & Kaynak 1998, UCI); no download."""

    name = "digits"

    def load(self) -> RawDataset:
        """Read the data set bundled with scikit-learn."""
        bunch = load_digits()
        x = (torch.from_numpy(bunch.images) * 255 / 16).round().to(torch.uint8).unsqueeze(1)
        return RawDataset(x, torch.from_numpy(bunch.target).long(), class_names=[str(n) for n in bunch.target_names])


class DownloadableImages(ImageData):
    """Images with an official test part that torchvision can download.

    Args:
        root: data folder; default the environment's TOUCHSTONE_DATA, else ``data/`` of the project.
        download: download missing files into `root`.
        settings: see `ImageData`.
    """

    torchvision_name: str
    hint = ""
    suffixes: tuple[str, ...] = ("",)  # in which the files may be

    def __init__(self, *, root: str | Path | None = None, download: bool = False, **settings: Any) -> None:
        self.root, self.download = data_root(root), download
        super().__init__(**settings)

    @abstractmethod
    def places(self) -> list[tuple[Path, tuple[str, ...]]]:
        """Return the folders in which the files may be, each with the files' names."""

    @abstractmethod
    def fetch(self, dataset: object) -> None:
        """Download and unpack the files of torchvision's class."""

    def files(self) -> tuple[Path, ...]:
        """Return the files, downloaded if `download` is set. Raises UserError if they are missing."""
        found = self._complete()
        if not found and self.download:
            from torchvision import datasets

            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / f".{self.name}.lock"):  # ranks and parallel jobs download once
                if not self._complete():
                    self.fetch(getattr(datasets, self.torchvision_name))
            found = self._complete()
        if not found:
            places = "\n".join(f"  {folder}: {', '.join(names)}" for folder, names in self.places())
            raise UserError(
                f"{self.name} was not found. Looked for{' (or .gz)' * (len(self.suffixes) > 1)}:\n{places}\nDownload it with "
                f"data.download=true{self.hint}, or set data.root or TOUCHSTONE_DATA to its folder"
            )
        return found

    def _complete(self) -> tuple[Path, ...] | None:
        for folder, names in self.places():
            found = [next((p for s in self.suffixes if (p := folder / f"{f}{s}").is_file()), None) for f in names]
            if all(found):
                return tuple(path for path in found if path)
        return None


class MNIST(DownloadableImages):
    """uint8 [1, 28, 28]; 60,000 samples for training and validation, 10,000 in the official test part.

    LeCun et al. 1998. See `DownloadableImages` for the arguments.
    """

    name = "mnist"
    torchvision_name = "MNIST"
    suffixes = ("", ".gz")
    class_labels: tuple[str, ...] = tuple(str(digit) for digit in range(10))
    elsewhere: tuple[Path, ...] = ()

    def __init__(
        self, *, mean: Sequence[float] | None = (0.1307,), std: Sequence[float] | None = (0.3081,), **settings: Any
    ) -> None:
        super().__init__(mean=mean, std=std, **settings)

    def load(self) -> RawDataset:
        """Find and read the four files. Raises UserError if the files are missing, damaged or inconsistent."""
        files = self.files()
        images, labels, test_images, test_labels = (read_idx(file) for file in files)
        for (x, y), pair in (((images, labels), files[:2]), ((test_images, test_labels), files[2:])):
            if x.ndim != 3 or y.shape != x.shape[:1] or int(y.max()) >= len(self.class_labels):
                shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
                raise UserError(f"{pair[0]} and {pair[1]} do not match: {shapes}, labels up to {int(y.max())}")
        test = (test_images.unsqueeze(1), test_labels.long())
        return RawDataset(images.unsqueeze(1), labels.long(), test, list(self.class_labels), files=files)

    def places(self) -> list[tuple[Path, tuple[str, ...]]]:
        folders = (self.root / self.torchvision_name / "raw", self.root, *self.elsewhere)
        return [(folder, IDX_FILES) for folder in folders]

    def fetch(self, dataset: Any) -> None:
        dataset(str(self.root), download=True)


class FashionMNIST(MNIST):
    """Like MNIST (Xiao et al. 2017); also found in the folder of Debian's package dataset-fashion-mnist."""

    name = "fashion_mnist"
    torchvision_name = "FashionMNIST"
    class_labels = FASHION_CLASSES
    elsewhere = (DEBIAN_FOLDER,)
    hint = " or apt-get install dataset-fashion-mnist"

    def __init__(
        self, *, mean: Sequence[float] | None = (0.2860,), std: Sequence[float] | None = (0.3530,), **settings: object
    ) -> None:
        super().__init__(mean=mean, std=std, **settings)


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


class CIFAR10(DownloadableImages):
    """uint8 [3, 32, 32]; 50,000 samples for training and validation, 10,000 in the official test part.

    Krizhevsky 2009, the binary or the Python version. See `DownloadableImages` for the arguments.
    """

    name = "cifar10"
    torchvision_name = "CIFAR10"
    python_folder, binary_folder = "cifar-10-batches-py", "cifar-10-batches-bin"
    file_names: tuple[str, ...] = (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch")  # the last is the test part
    label_bytes = 1  # at the start of a binary record; the last one is the label
    label_key = b"labels"
    python_names, names_key, binary_names = "batches.meta", b"label_names", "batches.meta.txt"

    def __init__(
        self,
        *,
        mean: Sequence[float] | None = (0.4914, 0.4822, 0.4465),
        std: Sequence[float] | None = (0.2470, 0.2435, 0.2616),
        **settings: Any,
    ) -> None:
        super().__init__(mean=mean, std=std, **settings)

    def load(self) -> RawDataset:
        """Find and read the files.

        Raises UserError if the files are missing or damaged, or contain anything but NumPy arrays.
        """
        files = self.files()
        read = self._read_binary if files[0].suffix == ".bin" else self._read_python
        parts = [read(file) for file in files]
        x, y = torch.cat([part[0] for part in parts[:-1]]), torch.cat([part[1] for part in parts[:-1]])
        return RawDataset(x, y, test=parts[-1], class_names=self._names(files[0].parent), files=files)

    def places(self) -> list[tuple[Path, tuple[str, ...]]]:
        binary = tuple(f"{name}.bin" for name in self.file_names)
        return [(self.root / self.binary_folder, binary), (self.root / self.python_folder, self.file_names)]

    def fetch(self, dataset: Any) -> None:
        from torchvision.datasets.utils import download_and_extract_archive

        download_and_extract_archive(dataset.url, str(self.root), filename=dataset.filename, md5=dataset.tgz_md5)

    def _read_binary(self, file: Path) -> tuple[Tensor, Tensor]:
        content = np.fromfile(file, np.uint8)
        record = self.label_bytes + PIXELS
        if not content.size or content.size % record:
            raise UserError(f"{file} is damaged: {content.size} bytes are not a whole number of records of {record}")
        records = torch.from_numpy(content).view(-1, record)
        x = records[:, self.label_bytes :].reshape(-1, 3, 32, 32)
        return x, records[:, self.label_bytes - 1].long()

    def _read_python(self, file: Path) -> tuple[Tensor, Tensor]:
        content = read_cifar_pickle(file)
        data, labels = content.get(b"data"), content.get(self.label_key)
        if not isinstance(data, np.ndarray) or not isinstance(labels, list):
            raise UserError(f"{file} is damaged: it has no 'data' or no '{self.label_key.decode()}'")
        if data.dtype != np.uint8 or data.shape != (len(labels), PIXELS):
            raise UserError(f"{file} is damaged: expected uint8 images of {PIXELS} values with one label each")
        return torch.from_numpy(data).view(-1, 3, 32, 32), torch.tensor(labels, dtype=torch.int64)

    def _names(self, folder: Path) -> list[str] | None:
        text, pickled = folder / self.binary_names, folder / self.python_names
        if text.is_file():
            return text.read_text().split()
        return [name.decode() for name in read_cifar_pickle(pickled)[self.names_key]] if pickled.is_file() else None


class CIFAR100(CIFAR10):
    """As CIFAR10, with the 100 fine classes."""

    name = "cifar100"
    torchvision_name = "CIFAR100"
    python_folder, binary_folder = "cifar-100-python", "cifar-100-binary"
    file_names = ("train", "test")
    label_bytes = 2  # coarse, fine
    label_key = b"fine_labels"
    python_names, names_key, binary_names = "meta", b"fine_label_names", "fine_label_names.txt"

    def __init__(
        self,
        *,
        mean: Sequence[float] | None = (0.5071, 0.4865, 0.4409),
        std: Sequence[float] | None = (0.2673, 0.2564, 0.2762),
        **settings: object,
    ) -> None:
        super().__init__(mean=mean, std=std, **settings)


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it references {module}.{name}, which a CIFAR file does not contain")
        return ALLOWED[module, name]


def read_cifar_pickle(path: Path) -> dict[bytes, Any]:
    """Return the dictionary of a CIFAR file. Raises UserError if it is damaged or references anything but NumPy arrays."""
    try:
        with path.open("rb") as opened:
            content = _ArraysOnly(opened, encoding="bytes").load()
        if not isinstance(content, dict):
            raise ValueError("it is not a dictionary")
    except Exception as error:  # a damaged pickle may raise anything
        raise UserError(f"{path} was rejected: {error}; download it again from its authors") from error
    return content
