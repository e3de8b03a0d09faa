"""A data set as its quality is looked at: the pool and the official test part in one row, each sample with its part."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_modules.data.preprocess import SampleSource

PARTS = ("train", "val", "test", "unused")  # unused: left out by data.fraction, per_class or a fold
DOMAINS = ("image", "series", "audio", "text", "interactions", "table")


@dataclass(frozen=True)
class Samples:
    """All N samples of a set; those of an official test part stand behind those of the pool.

    Attributes:
        stores: raw samples of the pool and, where there is one, of the official test part.
        y: int64 [N] classes, or float32 [N] or [N, D].
        parts: which of `PARTS` each sample is in, [N].
        data: the datamodule; it says how a text reads and how fast a waveform is.
    """

    name: str
    domain: str
    stores: tuple[SampleSource, ...]
    y: Tensor
    parts: np.ndarray
    class_names: list[str] | None
    data: Any

    def __len__(self) -> int:
        return len(self.y)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one raw sample."""
        return tuple(self.stores[0].shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        return self.stores[0].dtype

    @property
    def num_classes(self) -> int | None:
        return None if self.y.is_floating_point() else len(self.class_names or ())

    def read(self, index: Tensor) -> Tensor:
        """Return the raw samples of `index` [n], in its order."""
        pool = len(self.stores[0])
        if len(self.stores) == 1 or int(index.max()) < pool:
            return self.stores[0].index_select(0, index)
        official = index >= pool
        inner = self.stores[0].index_select(0, index[~official])
        x = inner.new_empty((len(index), *self.shape))
        x[~official] = inner
        x[official] = self.stores[1].index_select(0, index[official] - pool)
        return x

    def chunks(self, size: int = 1024) -> tuple[Tensor, ...]:
        """Index tensors that together read every sample once, in order."""
        return torch.arange(len(self)).split(size)

    def members(self, part: str) -> np.ndarray:
        """Positions of a part's samples."""
        return np.flatnonzero(self.parts == part)

    def place(self, position: int) -> tuple[str, int]:
        """Return ("pool", index in ``data.arrays.x``) or ("test", index in the official test part)."""
        pool = len(self.stores[0])
        return ("pool", position) if position < pool else ("test", position - pool)

    def describe(self, position: int) -> str:
        """``train 17``, or ``test 3`` of the official test part."""
        return f"{self.parts[position]} {self.place(position)[1]}"

    def label(self, position: int) -> str:
        """The class's name, or the target."""
        value = self.y[position]
        if value.ndim:
            return str([round(v, 3) for v in value.tolist()])
        return self.class_names[int(value)] if self.class_names and self.num_classes else f"{float(value):.4g}"

    def text(self, position: int) -> str:
        """A text sample as words."""
        x = self.read(torch.tensor([position]))[0]
        return (
            str(self.data.sample_text(x))
            if hasattr(self.data, "sample_text")
            else " ".join(map(str, x[x > 0].tolist()))
        )


def collect_samples(data: Any) -> Samples:
    """Look at a set-up datamodule (``lightning_modules.data.in_memory.InMemoryData``)."""
    arrays = data.arrays
    y: Tensor = arrays.y
    stores: tuple[SampleSource, ...] = (arrays.x,)
    parts = np.full(len(y), "unused", dtype="<U6")
    for part in ("train", "val", *(() if arrays.test else ("test",))):
        parts[data.splits[part].numpy()] = part
    if arrays.test is not None:
        stores, y = (arrays.x, arrays.test[0]), torch.cat([y, arrays.test[1]])
        official = np.full(len(arrays.test[1]), "unused", dtype="<U6")
        official[data.splits["test"].numpy()] = "test"
        parts = np.concatenate([parts, official])
    return Samples(data.name, infer_domain(data), stores, y, parts, data.class_names, data)


def infer_domain(data: Any) -> str:
    """What kind of samples these are: as the datamodule says, else by type and shape."""
    said = getattr(data, "domain", "table")
    if said in DOMAINS and said != "table":
        return str(said)
    dimensions = len(data.arrays.x.shape)  # a datamodule that says nothing is called a table
    return {3: "series", 4: "image"}.get(dimensions, "table")
