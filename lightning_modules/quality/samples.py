"""All samples of a data set in one sequence: the pool, then the official test part, each with its part."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_modules.data.in_memory import InMemoryData
from lightning_modules.data.preprocess import SampleSource

PARTS = ("train", "val", "test", "unused")  # unused: dropped by data.fraction, per_class or a fold
DOMAINS = ("image", "series", "audio", "text", "interactions", "table")


@dataclass(frozen=True)
class Samples:
    """All N samples of a data set; an official test part follows the pool.

    Attributes:
        stores: raw samples of the pool and, if there is one, of the official test part.
        y: int64 [N] classes, or float32 [N] or [N, D].
        parts: the part (of `PARTS`) of each sample, [N].
        data: the datamodule, for texts and sample rates.
    """

    name: str
    domain: str
    stores: tuple[SampleSource, ...]
    y: Tensor
    parts: np.ndarray
    class_names: list[str] | None
    data: InMemoryData

    def __len__(self) -> int:
        return len(self.y)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one raw sample."""
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
        """Return index tensors that together cover all samples in order."""
        return torch.arange(len(self)).split(size)

    def members(self, part: str) -> np.ndarray:
        """Return the positions of a part's samples."""
        return np.flatnonzero(self.parts == part)

    def place(self, position: int) -> tuple[str, int]:
        """Return ("pool", index in ``data.arrays.x``) or ("test", index in the official test part)."""
        pool = len(self.stores[0])
        return ("pool", position) if position < pool else ("test", position - pool)

    def describe(self, position: int) -> str:
        """Return ``train 17``, or ``test 3`` for the official test part."""
        return f"{self.parts[position]} {self.place(position)[1]}"

    def label(self, position: int) -> str:
        """Return the class name, or the target."""
        value = self.y[position]
        if value.ndim:
            return str([round(v, 3) for v in value.tolist()])
        return self.class_names[int(value)] if self.class_names and self.num_classes else f"{float(value):.4g}"

    def text(self, position: int) -> str:
        """Return a sample as text."""
        x = self.read(torch.tensor([position]))[0]
        return (
            str(self.data.sample_text(x))
            if hasattr(self.data, "sample_text")
            else " ".join(map(str, x[x > 0].tolist()))
        )


def collect_samples(data: InMemoryData) -> Samples:
    """Collect the samples of a set-up datamodule (``lightning_modules.data.in_memory.InMemoryData``)."""
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


def infer_domain(data: InMemoryData) -> str:
    """Return the domain of the samples: that of the datamodule, else by shape."""
    domain = getattr(data, "domain", "table")
    if domain in DOMAINS and domain != "table":
        return str(domain)
    dimensions = len(data.arrays.x.shape)  # "table" is also the default of a datamodule
    return {3: "series", 4: "image"}.get(dimensions, "table")
