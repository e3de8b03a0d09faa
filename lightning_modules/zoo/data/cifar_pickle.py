"""Safe reader for the pickled dictionaries of CIFAR's Python version: only NumPy arrays are unpickled."""

import codecs
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from lightning_modules.compat.numpy import reconstruct_array
from lightning_modules.config.errors import UserError

# what a CIFAR file needs to rebuild its NumPy arrays; everything else is rejected
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): reconstruct_array,
    ("numpy._core.multiarray", "_reconstruct"): reconstruct_array,
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
