"""Samples in files larger than memory: .npy files mapped into memory, row groups of parquet, images or arrays in tar."""

import io
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from lightning_modules.config.errors import UserError

Pair = tuple[np.ndarray, np.ndarray]  # samples and their targets


class FileSamples(Dataset[Pair]):
    """Samples of files, each read as units that can be read at once: whole files, or groups of rows.

    `blocks` are ranges of samples that are near each other, at most `block_size` of one unit.
    """

    block_size = 4096

    def __init__(self, files: Sequence[Path]) -> None:
        self.units: list[tuple[Path, int]] = []
        sizes = [0]
        for file in files:
            with _naming(file):
                sizes += self.sizes(file)
            self.units += [(file, number) for number in range(len(sizes) - 1 - len(self.units))]
        self.starts = np.cumsum(sizes)
        cuts = (range(first, end, self.block_size) for first, end in pairwise(self.starts.tolist()))
        self.blocks = [(at, min(at + self.block_size, cut.stop)) for cut in cuts for at in cut]
        self.shape = self.__getitems__([0])[0].shape[1:] if len(self) else ()

    def sizes(self, file: Path) -> list[int]:
        """Numbers of samples in the units of a file."""
        raise NotImplementedError

    def read(self, file: Path, unit: int, rows: np.ndarray) -> Pair:
        """Some rows of a unit."""
        raise NotImplementedError

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitems__(self, indices: Sequence[int]) -> Pair:
        index = np.asarray(indices)
        units, parts, order = np.searchsorted(self.starts, index, side="right") - 1, [], []
        for unit in dict.fromkeys(units.tolist()):  # those of the sampler's last blocks come first, and are still held
            file, number = self.units[unit]
            with _naming(file):
                order.append(np.flatnonzero(units == unit))
                parts.append(self.read(file, number, index[order[-1]] - self.starts[unit]))
                if unusable := {str(values.dtype) for values in parts[-1] if values.dtype.kind not in "biuf"}:
                    raise ValueError(f"expected numbers, got {', '.join(unusable)}")
                if (shape := parts[-1][0].shape[1:]) != getattr(self, "shape", shape):
                    raise ValueError(f"a sample has shape {shape}, the first one {self.shape}")
        back = np.argsort(np.concatenate(order))
        x, y = (np.concatenate(values)[back] for values in zip(*parts, strict=True))
        return x, y


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # readers raise many types for damaged files
        raise UserError(f"{file} cannot be read: {str(error).strip() or type(error).__name__}") from error


class NpySamples(FileSamples):
    """Arrays ``PART_x*.npy`` with targets ``PART_y*.npy``."""

    def _map(self, file: Path) -> list[np.ndarray]:
        return [np.load(path, mmap_mode="r") for path in (file, file.with_name(file.name.replace("_x", "_y", 1)))]

    def sizes(self, file: Path) -> list[int]:
        x, y = map(len, self._map(file))
        if x != y:
            raise ValueError(f"{x} samples, but {y} targets")
        return [x]

    def read(self, file: Path, unit: int, rows: np.ndarray) -> Pair:
        x, y = (_read_rows(array, rows) for array in self._map(file))
        return x, y


def _read_rows(array: Any, rows: np.ndarray) -> np.ndarray:
    """Rows of a mapped file, read from the file: each page that is touched would add up to 2 MB to the resident memory."""
    if not array.flags.c_contiguous:
        raise ValueError("expected an array in C order; write it with np.save(path, np.ascontiguousarray(array))")
    found = np.empty((len(rows), *array.shape[1:]), array.dtype)
    places: Any = found.view(np.uint8).reshape(len(rows), -1) if len(rows) else []
    with Path(array.filename).open("rb", buffering=0) as opened:
        for row, place in zip(rows.tolist(), places, strict=True):
            opened.seek(array.offset + row * len(place))
            opened.readinto(place)
    return found


class ParquetSamples(FileSamples):
    """Rows of parquet files; a unit is a row group. The last `held` ones are kept in memory."""

    block_size = 2**62

    def __init__(self, files: Sequence[Path], columns: Sequence[str] | None, target: str, held: int) -> None:
        self.columns, self.target, self.held = columns, target, held
        self._groups: dict[tuple[Path, int], Pair] = {}
        super().__init__(files)

    def sizes(self, file: Path) -> list[int]:
        from pyarrow.parquet import read_metadata

        metadata = read_metadata(file)
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]

    def read(self, file: Path, unit: int, rows: np.ndarray) -> Pair:
        if (file, unit) not in self._groups:
            while len(self._groups) >= self.held:
                del self._groups[next(iter(self._groups))]
            self._groups[file, unit] = self._read_group(file, unit)
        x, y = self._groups[file, unit]
        return x[rows], y[rows]

    def _read_group(self, file: Path, group: int) -> Pair:
        from pyarrow.parquet import ParquetFile

        with ParquetFile(file) as opened:
            features = self.columns or [name for name in opened.schema_arrow.names if name != self.target]
            table = opened.read_row_group(group, names := [*features, self.target])
        if unusable := [name for name in names if name not in table.column_names or table[name].null_count]:
            raise ValueError(f"no column, or null values in it: {', '.join(unusable)}")
        columns: list[Any] = [np.asarray(table[name]) for name in names]
        *x, y = [np.stack(column) if column.dtype == object else column for column in columns]
        return x[0] if len(x) == 1 else np.stack(x, axis=1), y


class TarSamples(FileSamples):
    """Images or arrays KEY.png, KEY.jpg or KEY.npy, with their classes as text in KEY.cls, in uncompressed tar files."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.index: dict[Path, np.ndarray] = {}  # offset, size and class of each sample
        super().__init__(files)

    def sizes(self, file: Path) -> list[int]:
        samples: dict[str, tuple[int, int]] = {}
        classes: dict[str, int] = {}
        with tarfile.open(file, "r:") as archive, file.open("rb") as opened:
            while (member := archive.next()) is not None:
                setattr(archive, "members", [])  # noqa: B010 # they would take a GB for a million samples
                key, _, suffix = member.name.rpartition(".")
                opened.seek(member.offset_data)
                if suffix == "cls":
                    classes[key] = int(opened.read(member.size))
                elif suffix in ("png", "jpg", "jpeg", "npy"):
                    samples[key] = member.offset_data, member.size
                elif member.isfile():
                    raise ValueError(f"{member.name} is not KEY.png, KEY.jpg, KEY.npy or KEY.cls")
            opened.seek(archive.offset)
            if opened.read(512) != bytes(512):  # tarfile takes a damaged header for the end
                raise ValueError("it has no end-of-archive mark; is it truncated?")
        if lacking := samples.keys() ^ classes.keys():
            raise ValueError(f"{min(lacking)} has no sample, or no class in KEY.cls")
        self.index[file] = np.array([(*where, classes[key]) for key, where in samples.items()], np.int64).reshape(-1, 3)
        return [len(samples)]

    def read(self, file: Path, unit: int, rows: np.ndarray) -> Pair:
        chosen, samples = self.index[file][rows], []
        with file.open("rb") as opened:
            for offset, size, _ in chosen.tolist():
                opened.seek(offset)
                content = io.BytesIO(opened.read(size))
                is_array = content.getbuffer()[:6] == b"\x93NUMPY"
                image: object = None if is_array else Image.open(content).convert("RGB")
                samples.append(np.load(content) if is_array else np.asarray(image).transpose(2, 0, 1))
        return np.stack(samples), chosen[:, 2]
