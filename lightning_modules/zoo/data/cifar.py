"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), read from the binary or the Python version."""

import codecs
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from lightning_modules.config.errors import UserError
from lightning_modules.data.files import data_root
from lightning_modules.data.in_memory import InMemoryData, RawDataset
from lightning_modules.data.preprocess import SampleSource, constants_problems, standardize

_RECONSTRUCT_ARRAY = np.empty(0).__reduce__()[0]
# what a CIFAR file needs to rebuild its NumPy arrays; everything else is rejected
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT_ARRAY,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT_ARRAY,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it references {module}.{name}, which a CIFAR file does not contain")
        return ALLOWED[module, name]


def read_cifar_pickle(path: Path) -> dict[bytes, Any]:
    """Return the dictionary of a CIFAR file, its keys as bytes.

    Raises:
        UserError: the file is damaged, or references anything but NumPy arrays.
    """
    try:
        with path.open("rb") as opened:
            content = _ArraysOnly(opened, encoding="bytes").load()
    except Exception as error:  # a damaged pickle may raise anything
        raise UserError(f"{path} was rejected: {error}; download it again from its authors") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} was rejected: it is not a dictionary; download it again from its authors")
    return content


PIXELS = 3 * 32 * 32


class CIFAR10(InMemoryData):
    """uint8 [3, 32, 32]; 50,000 samples for training and validation, 10,000 in the official test part.

    Args:
        root: data folder; default the environment's TOUCHSTONE_DATA, else ``data/`` of the project.
        download: download missing files into `root`.
        mean, std: of pixels in [0, 1], one number per channel; null computes them on the training part.
    """

    name = "cifar10"
    domain = "image"
    torchvision_name = "CIFAR10"
    python_folder, binary_folder = "cifar-10-batches-py", "cifar-10-batches-bin"
    python_files: tuple[str, ...] = (
        *(f"data_batch_{n}" for n in range(1, 6)),
        "test_batch",
    )  # the last file is the test part
    binary_files: tuple[str, ...] = (*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin")
    label_bytes = 1  # at the start of a binary record; the last one is the label
    label_key = b"labels"
    python_names, names_key, binary_names = "batches.meta", b"label_names", "batches.meta.txt"

    def __init__(
        self,
        *,
        root: str | Path | None = None,
        download: bool = False,
        mean: Sequence[float] | None = (0.4914, 0.4822, 0.4465),
        std: Sequence[float] | None = (0.2470, 0.2435, 0.2616),
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
        """Find and read the files.

        Raises:
            UserError: the files are missing or damaged, or contain anything but NumPy arrays.
        """
        files = self._find()
        read = self._read_binary if files[0].parent.name == self.binary_folder else self._read_python
        parts = [read(file) for file in files]
        x, y = torch.cat([part[0] for part in parts[:-1]]), torch.cat([part[1] for part in parts[:-1]])
        return RawDataset(x, y, test=parts[-1], class_names=self._names(files[0].parent), files=files)

    def _find(self) -> tuple[Path, ...]:
        if not (found := self._complete()) and self.download:
            from torchvision import datasets
            from torchvision.datasets.utils import download_and_extract_archive

            kind = getattr(datasets, self.torchvision_name)
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / f".{self.name}.lock"):  # ranks and parallel jobs download once
                if not self._complete():
                    download_and_extract_archive(kind.url, str(self.root), filename=kind.filename, md5=kind.tgz_md5)
            found = self._complete()
        if not found:
            folders = [self.root / self.binary_folder, self.root / self.python_folder]
            raise UserError(
                f"{self.name} was not found. Looked for:\n  {folders[0]}: {', '.join(self.binary_files)}\n"
                f"  {folders[1]}: {', '.join(self.python_files)}\n"
                "Download it with data.download=true, or set data.root or TOUCHSTONE_DATA to its folder"
            )
        return found

    def _complete(self) -> tuple[Path, ...] | None:
        for folder, names in (
            (self.binary_folder, self.binary_files),
            (self.python_folder, self.python_files),
        ):
            files = tuple(self.root / folder / name for name in names)
            if all(file.is_file() for file in files):
                return files
        return None

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
        if pickled.is_file():
            return [name.decode() for name in read_cifar_pickle(pickled)[self.names_key]]
        return None

    def build_preprocess(self, x: SampleSource, train: Tensor) -> nn.Module:
        """Standardise per channel."""
        return standardize(x, train, self.mean, self.std)


class CIFAR100(CIFAR10):
    """As CIFAR10, with the 100 fine classes."""

    name = "cifar100"
    torchvision_name = "CIFAR100"
    python_folder, binary_folder = "cifar-100-python", "cifar-100-binary"
    python_files = ("train", "test")
    binary_files = ("train.bin", "test.bin")
    label_bytes = 2  # coarse, fine
    label_key = b"fine_labels"
    python_names, names_key, binary_names = "meta", b"fine_label_names", "fine_label_names.txt"

    def __init__(
        self,
        *,
        mean: Sequence[float] | None = (0.5071, 0.4865, 0.4409),
        std: Sequence[float] | None = (0.2673, 0.2564, 0.2762),
        **settings: Any,
    ) -> None:
        super().__init__(mean=mean, std=std, **settings)
