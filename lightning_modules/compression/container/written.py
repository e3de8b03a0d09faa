"""What was written: the size of each tensor and of the file, beside what information theory allows."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StoredTensor:
    """One tensor: how it is coded, bytes when dense, stored and at least (see `bound`), and how many entries are zero."""

    name: str
    codec: str
    shape: tuple[int, ...]
    dtype: str
    dense_bytes: int
    stored_bytes: float  # with its share of the pools
    bound_bytes: float
    zeros: int


@dataclass(frozen=True)
class WriteReport:
    """A compressed file on disk.

    Attributes:
        size_bytes: of the file, header and all.
        bound_bytes: the sum of entropies of its tensors.
    """

    path: Path
    size_bytes: int
    bound_bytes: float
    tensors: tuple[StoredTensor, ...]

    @property
    def dense_bytes(self) -> int:
        return sum(tensor.dense_bytes for tensor in self.tensors)

    def table(self) -> str:
        """Markdown: a row for each tensor, one for the header, and one for the file."""
        rows: list[tuple[str | float, ...]] = [
            (t.name, t.codec, "x".join(map(str, t.shape)), t.zeros, t.dense_bytes, t.stored_bytes, t.bound_bytes)
            for t in self.tensors
        ]
        header = self.size_bytes - sum(tensor.stored_bytes for tensor in self.tensors)
        zeros = sum(tensor.zeros for tensor in self.tensors)
        rows.append(("header", "", "", "", "", header, ""))
        rows.append(("file", "", "", zeros, self.dense_bytes, self.size_bytes, self.bound_bytes))
        lines = ["| tensor | codec | shape | zeros | dense | stored | bound |", "|---|---|---|--:|--:|--:|--:|"]
        return "\n".join([*lines, *("| " + " | ".join(map(_format_cell, row)) + " |" for row in rows)])


def _format_cell(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:,.0f}"
