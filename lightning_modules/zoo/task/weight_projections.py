"""Projections of the weights, by which equal weights of two runs can be told."""

import pytorch_lightning as pl
import torch
from torch import nn


class WeightProjections(pl.Callback):
    """Logs ``weights/norm`` and ``weights/projection_0`` … of all weights and buffers at the end of training.

    A projection is the inner product with a vector of independent standard normal numbers, in float64. If the weights
    differ by D, a projection differs by a normal number of standard deviation ||D||_2. The probability that k projections
    all differ by at most t is below (0.8 t / ||D||_2)^k; with ||D||_2 > 10 t and k = 8 that is one in 6e8.

    Args:
        directions: number of projections.
        seed: of the random vectors; only runs with equal seed and network are comparable.
    """

    needs = "model"

    def __init__(self, directions: int = 8, seed: int = 0) -> None:
        self.directions, self.seed = directions, seed

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            network: nn.Module = pl_module.model  # type: ignore[assignment]  # without preprocessing
            values = project_weights(network, self.directions, self.seed)
            for logger in trainer.loggers:
                logger.log_metrics(values, trainer.global_step)


@torch.no_grad()
def project_weights(network: nn.Module, directions: int, seed: int) -> dict[str, float]:
    """``weights/norm`` and ``weights/projection_<k>`` of all floating tensors in the network's state."""
    floats = (tensor for tensor in network.state_dict().values() if tensor.is_floating_point())
    flat = torch.cat([tensor.detach().double().cpu().flatten() for tensor in floats])
    generator = torch.Generator().manual_seed(seed)
    values = {"weights/norm": float(flat.norm())}
    for k in range(directions):
        vector = torch.randn(flat.shape, dtype=torch.float64, generator=generator)
        values[f"weights/projection_{k}"] = float(flat @ vector)
    return values
