"""Read raw samples for a recorded model from images, arrays, tables and texts."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_modules.config.errors import UserError, first_line
from lightning_modules.data.class_folders import reason_to_skip, warn_of_skipped
from lightning_modules.data.files import read_npy
from lightning_modules.data.image_folder import SUFFIXES as IMAGES
from lightning_modules.data.image_folder import Background, read_image
from lightning_modules.data.table_file import has_header, read_columns, read_table, to_numbers
from lightning_modules.data.table_input import TableInput, to_samples
from lightning_modules.data.text_encoding import read_texts

SUFFIXES = (*IMAGES, ".npy", ".csv", ".tsv", ".parquet", ".txt")


@dataclass(frozen=True)
class InputSpec:
    """The samples a model accepts.

    Attributes:
        cuts_images: whether images are cropped to size as in training.
        encode: turns texts into samples; in tables, the texts of the column `text`.
        table: the columns of a model of tables.
        encoding: of text files; None detects it.
        background: behind transparent pixels.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    cuts_images: bool = False
    encode: Callable[[list[str]], Tensor] | None = None
    table: TableInput | None = None
    text: str = "text"
    encoding: str | None = None
    background: Background = "white"

    def __str__(self) -> str:
        return f"the model expects {str(self.dtype).removeprefix('torch.')} samples of shape {list(self.shape)}"


def list_files(source: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """The file itself, or all supported files of a folder in order; warns about others. Raises UserError if there are none."""
    if not source.exists():
        raise UserError(f"input={source}: no such file or folder")
    found = [source]
    if source.is_dir():
        files = [(path, reason_to_skip(path, suffixes)) for path in sorted(source.rglob("*")) if not path.is_dir()]
        found = [path for path, reason in files if reason is None]
        warn_of_skipped(source, Counter(reason for _, reason in files if reason), len(found))
    if not found or found[0].suffix.lower() not in suffixes:
        raise UserError(f"input={source}: no supported file; supported are {', '.join(suffixes)}")
    return found


def read_samples(file: Path, wanted: InputSpec) -> Tensor:
    """Return the raw samples [N, *shape] of a file. Raises UserError if the model does not accept them."""
    suffix = file.suffix.lower()
    read = _read_image if suffix in IMAGES else {".npy": _read_array, ".txt": _read_lines}.get(suffix, _read_table)
    try:
        return read(file, wanted)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise UserError(f"{file} cannot be read: {first_line(error)}") from error


def _read_image(file: Path, wanted: InputSpec) -> Tensor:
    if len(wanted.shape) != 3 or wanted.shape[0] not in (1, 3) or wanted.dtype != torch.uint8:
        raise UserError(f"{file} is an image, but {wanted}")
    if wanted.cuts_images:
        from lightning_modules.data.image_folder import decode

        return decode(file, wanted.shape[1], wanted.background)[None]
    pixels = np.array(read_image(file, wanted.background).convert("L" if wanted.shape[0] == 1 else "RGB"))
    x = torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)
    if x.shape != wanted.shape:
        raise UserError(f"{file} is an image of shape {list(x.shape)}, but {wanted}")
    return x[None]


def _read_array(file: Path, wanted: InputSpec) -> Tensor:
    array = read_npy(file)
    if array.shape == wanted.shape:
        array = array[None]
    if array.shape[1:] != wanted.shape or array.dtype.kind not in "iufb":
        raise UserError(f"{file} is an array of shape {list(array.shape)} and type {array.dtype}, but {wanted}")
    if wanted.dtype == torch.uint8 and array.dtype != np.uint8:  # floats in [0, 1] would all become 0 or 1
        raise UserError(f"{file} contains {array.dtype}, but {wanted}")
    return torch.from_numpy(array).to(wanted.dtype)


def _read_lines(file: Path, wanted: InputSpec) -> Tensor:
    if wanted.encode is None:
        raise UserError(f"{file} contains texts, but {wanted}")
    [content] = read_texts([file], wanted.encoding)
    lines = content.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return wanted.encode(lines[:-1] if not lines[-1] else lines)  # an empty line is a text, but not after the last end


def _read_table(file: Path, wanted: InputSpec) -> Tensor:
    if wanted.encode is not None:
        return wanted.encode(_texts_of(file, wanted))
    named = has_header(file, wanted.table.columns if wanted.table else (), wanted.encoding)
    text = tuple(wanted.table.categories) if wanted.table else ()
    table, _ = read_table(file, wanted.encoding, header=named, text=text)
    if wanted.table and wanted.table.columns:
        return wanted.table.samples(table, str(file))
    size = math.prod(wanted.shape)
    numbers = to_numbers(table, str(file))
    if table.shape[1] != size:
        raise UserError(f"{file} has {table.shape[1]} columns, but {wanted} ({size} columns below a header)")
    x = wanted.table.samples(numbers, str(file)) if wanted.table else to_samples(numbers, wanted.dtype, str(file))
    return x.reshape(-1, *wanted.shape)


def _texts_of(file: Path, wanted: InputSpec) -> list[str]:
    if file.suffix.lower() == ".parquet":
        table, _ = read_table(file)
        cells = {str(name): [str(text) for text in table[name]] for name in table}
    else:
        cells = read_columns(file, [wanted.text], wanted.encoding)
    if wanted.text not in cells:
        raise UserError(f"{file} has no column '{wanted.text}', which the model expects to contain the texts")
    return cells[wanted.text]
