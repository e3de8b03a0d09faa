"""Random points of DeepOBS' noisy quadratic problem (Schneider et al., ICLR 2019)."""

from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from lightning_modules.config.bounds import Positive, bounded
from lightning_modules.data.in_memory import InMemoryData, RawDataset


class NoisyQuadratic(InMemoryData):
    """float32 [dim] points from N(0, noise^2): 1000 for training and validation, 1000 in the official test part.

    Each point is its own target: the loss is the distance of one learned vector to it. Training points come from
    NumPy's RandomState(42), test points from RandomState(43), as in the original.

    Args:
        dim: dimensions of a point.
        noise: standard deviation in each dimension.
    """

    name = "quadratic"

    @bounded
    def __init__(self, *, dim: Annotated[int, Ge(2)] = 100, noise: Positive = 0.6, **settings: Any) -> None:
        self.dim, self.noise = dim, noise
        super().__init__(**settings)

    def load(self) -> RawDataset:
        """Draw the points."""
        points, test = self._draw(42), self._draw(43)
        return RawDataset(points, points, test=(test, test))

    def _draw(self, seed: int) -> Tensor:
        drawn = np.random.RandomState(seed).normal(0.0, self.noise, (1000, self.dim))
        return torch.from_numpy(drawn.astype(np.float32))
