"""DeepOBS' noisy quadratic: a convex loss with a spectrum like that of deep networks, and its model."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


class LearnedConstant(nn.Module):
    """Returns the same learned vector [num_outputs] for every sample; it is initialised with `value`."""

    def __init__(self, input_shape: Sequence[int], num_outputs: int, value: float = 1.0) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.full((num_outputs,), float(value)))

    def forward(self, x: Tensor) -> Tensor:
        return self.theta.expand(len(x), -1)


class QuadraticLoss(nn.Module):
    """0.5 (theta - x)' H (theta - x), averaged over the points x [B, dim]; theta [B, dim] is the prediction.

    In H (Schneider et al., ICLR 2019, "quadratic_deep") 90% of the eigenvalues come from U(0, 1), the others from
    U(30, 60), under a random rotation; all drawn from NumPy's RandomState(`seed`).
    """

    def __init__(self, dim: int = 100, seed: int = 42) -> None:
        super().__init__()
        hessian = torch.from_numpy(rotated_hessian(dim, seed)).float()
        self.register_buffer("hessian", hessian, persistent=False)
        self.hessian: Tensor

    def forward(self, theta: Tensor, x: Tensor) -> Tensor:
        away = theta - x
        return 0.5 * ((away @ self.hessian) * away).sum(-1).mean()


def rotated_hessian(dim: int, seed: int) -> np.ndarray:
    """H = R' diag(eigenvalues) R, float64 [dim, dim]; drawn in the order small eigenvalues, large ones, R."""
    draws = np.random.RandomState(seed)
    large = dim // 10
    eigenvalues = np.concatenate([draws.uniform(0.0, 1.0, dim - large), draws.uniform(30.0, 60.0, large)])
    rotation = random_rotation(dim, draws)
    return rotation.T @ (eigenvalues[:, None] * rotation)


def random_rotation(dim: int, draws: np.random.RandomState) -> np.ndarray:
    """A random orthogonal matrix [dim, dim]: the subgroup algorithm of Diaconis and Shahshahani (1987).

    Starting from a rotation of the plane, each further dimension adds a reflection that maps the first axis to a random
    direction. The determinant's sign is irrelevant for the Hessian.
    """
    angle = 2 * np.pi * draws.uniform()
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    for size in range(3, dim + 1):
        direction = draws.normal(size=size)
        normal = -direction / np.linalg.norm(direction)
        normal[0] += 1.0
        normal /= np.linalg.norm(normal)
        grown = np.eye(size)
        grown[1:, 1:] = rotation
        rotation = grown - 2.0 * np.outer(normal, normal @ grown)
    return rotation
