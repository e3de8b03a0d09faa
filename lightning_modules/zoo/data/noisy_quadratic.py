"""Random points of DeepOBS' noisy quadratic problem (Schneider et al., ICLR 2019)."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_modules.data.in_memory import InMemoryData, RawDataset
from lightning_modules.data.split import check_number


class NoisyQuadratic(InMemoryData):
    """float32 [dim] points from N(0, noise^2): 1000 for training and validation, 1000 in the official test part.

    Each point is its own target: the loss is the distance of one learned vector to it. Training points come from
    NumPy's RandomState(42), test points from RandomState(43), as in the original.

    Args:
        dim: dimensions of a point.
        noise: standard deviation in each dimension.
    """

    name = "quadratic"

    def __init__(self, *, dim: int = 100, noise: float = 0.6, **settings: Any) -> None:
        self.dim = dim
        self.noise = noise
        super().__init__(**settings)

    def problems(self) -> list[str]:
        """Also check `dim` and `noise`."""
        found = super().problems()
        found += check_number("dim", self.dim, True, lambda v: v >= 2, "of at least 2")
        return found + check_number("noise", self.noise, False, lambda v: v > 0, "above 0")

    def load(self) -> RawDataset:
        """Draw the points."""
        points, test = self._draw(42), self._draw(43)
        return RawDataset(points, points, test=(test, test))

    def _draw(self, seed: int) -> Tensor:
        drawn = np.random.RandomState(seed).normal(0.0, self.noise, (1000, self.dim))
        return torch.from_numpy(drawn.astype(np.float32))
