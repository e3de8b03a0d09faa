"""All samples of a data set in one sequence: the pool, then the official test part, each with its part."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lightning_modules.data.in_memory import InMemoryData
from lightning_modules.data.preprocess import SampleSource

Part = Literal["train", "val", "test", "unused"]  # unused: dropped by data.fraction, per_class or a fold
PARTS: tuple[str, ...] = get_args(Part)


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
        return None if self.y.is_floating_point() or self.y.ndim > 1 else len(self.class_names or ())

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

    def chunks(self) -> tuple[Tensor, ...]:
        """Return index tensors that together cover all samples in order."""
        return torch.arange(len(self)).split(1024)

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
        return self.data.sample_text(x)


def collect_samples(data: InMemoryData) -> Samples:
    """Collect the samples of a set-up datamodule."""
    arrays = data.arrays
    sets = [(arrays.x, arrays.y), *([arrays.test] if arrays.test else [])]
    stores, targets = zip(*sets, strict=True)
    y = torch.cat(targets)
    parts = np.full(len(y), "unused", dtype="<U6")
    for part, index in data.splits.items():
        parts[index.numpy() + (len(arrays.y) if part == "test" and arrays.test else 0)] = part
    return Samples(data.name, infer_domain(data), stores, y, parts, data.class_names, data)


def infer_domain(data: InMemoryData) -> str:
    """Return the domain of the samples: that of the datamodule, else by shape."""
    by_shape = {3: "series", 4: "image"}.get(len(data.arrays.x.shape), "table")
    return by_shape if data.domain == "table" else data.domain  # "table" is also the default of a datamodule
