"""Generated data: MNIST-1D (Greydanus & Kobak, ICML 2024), noisy quadratic points (Schneider et al., ICLR 2019), and
Gaussians in a grid or ring (Lin et al., NeurIPS 2018)."""

import hashlib
import io
import json
import random
from importlib.metadata import version
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from lightning_modules.config.bounds import Count, Positive, Seed, bounded
from lightning_modules.data.files import read_npz, write_atomic
from lightning_modules.data.in_memory import InMemoryData, RawDataset


class MNIST1D(InMemoryData):
    """float32 [40]; 4000 samples for training and validation, 1000 in the official test part; not preprocessed.

    `shuffle_positions` applies one fixed permutation to the 40 positions, as for the paper's "shuffled" results.
    """

    name = "mnist1d"
    domain = "series"

    def __init__(self, *, shuffle_positions: bool = False, **settings: Any) -> None:
        self.shuffle_positions = shuffle_positions
        super().__init__(**settings)

    def load(self) -> RawDataset:
        """Generate the set (about a second), or read it from the cache."""
        parts = self._cached()
        if self.shuffle_positions:
            # the paper's np.random.seed(42); np.random.permutation(40), without touching the global generator
            order = np.random.RandomState(42).permutation(40)
            parts = {key: part[:, order] if key.startswith("x") else part for key, part in parts.items()}
        x, x_test = (torch.from_numpy(parts[key].astype(np.float32)) for key in ("x", "x_test"))
        y, y_test = (torch.from_numpy(parts[key].astype(np.int64)) for key in ("y", "y_test"))
        return RawDataset(x, y, test=(x_test, y_test), class_names=[str(digit) for digit in range(10)])

    def _cached(self) -> dict[str, np.ndarray]:
        from mnist1d.data import get_dataset_args

        what = json.dumps([version("mnist1d"), np.__version__, get_dataset_args(as_dict=True)], sort_keys=True)
        path = self.cache_dir / f"mnist1d-{hashlib.sha256(what.encode()).hexdigest()[:16]}.npz"
        try:
            names = ("x", "y", "x_test", "y_test")
            return dict(zip(names, read_npz(path, names), strict=True))
        except Exception:  # missing or damaged: generate it again
            parts = _generate()
            content = io.BytesIO()
            np.savez(content, **parts)  # type: ignore[arg-type]
            write_atomic(path, content.getvalue())
            return parts


def _generate() -> dict[str, np.ndarray]:
    from mnist1d.data import get_dataset_args, make_dataset

    states = random.getstate(), np.random.get_state()
    try:
        made = make_dataset(get_dataset_args())  # seeds Python's and NumPy's global generators
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
    return {key: made[key] for key in ("x", "y", "x_test", "y_test")}


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


class GaussianGrid(InMemoryData):
    """float32 [2] points of equally likely Gaussians; the class of a point is its mode. Made for generative models.

    ``grid``: 25 modes at {-4, -2, 0, 2, 4}^2; ``ring``: 8 on the unit circle. Both are those of PacGAN (Lin et al. 2018).

    Args:
        layout: ``grid`` or ``ring``.
        std: of each Gaussian, in each dimension; null: 0.05 in the grid, 0.01 on the ring.
        num_samples: points for training and validation; the official test part has another 2500.
        data_seed: the points are a function of it.

    Attributes:
        centers: of the modes, float32 [M, 2].
    """

    name = "gaussian_grid"

    @bounded
    def __init__(
        self,
        *,
        layout: Literal["grid", "ring"] = "grid",
        std: Positive | None = None,
        num_samples: Count = 100_000,
        data_seed: Seed = 0,
        **settings: Any,
    ) -> None:
        self.std = std or {"grid": 0.05, "ring": 0.01}[layout]
        steps, angles = torch.arange(-4.0, 5.0, 2.0), torch.arange(8) * (torch.pi / 4)
        self.centers = (
            torch.cartesian_prod(steps, steps) if layout == "grid" else torch.stack([angles.cos(), angles.sin()], -1)
        )
        self.num_samples, self.data_seed = num_samples, data_seed
        super().__init__(**settings)

    def load(self) -> RawDataset:
        """Draw the points."""
        draw = np.random.default_rng(self.data_seed)
        (x, y), test = self._draw(draw, self.num_samples), self._draw(draw, 2500)
        return RawDataset(x, y, test=test)

    def _draw(self, draw: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
        modes = torch.from_numpy(draw.integers(len(self.centers), size=count))
        noise = torch.from_numpy(draw.normal(0.0, self.std, (count, 2)))
        return (self.centers[modes] + noise).float(), modes
