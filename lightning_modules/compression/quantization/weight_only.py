"""Weight-only quantization to uniform grids (integers times a scale) of 2 to 8 bits."""

from collections.abc import Sequence
from math import gcd
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from lightning_modules.compression.compressed_state import QuantGrid
from lightning_modules.compression.quantization.weight_sharing import WeightQuantization
from lightning_modules.compression.stage import StageContext
from lightning_modules.config.bounds import bounded

ScaleRule = Literal["range", "mse"]
SHRINKS = torch.linspace(1.0, 0.4, 61).tolist()  # fractions of the range that the search for the smallest error tries


class WeightOnlyQuantization(WeightQuantization):
    """Rounds the weights of the selected layers (see `LayerStage`) to a grid of 2^bits values.

    The file is smaller, but nothing is faster: the network computes with the same values as floats.

    Args:
        bits, group, zero_point, scale: see `fit_grid`; `bits` is 2 to 8.
    """

    reported = ("bits", "group", "zero_point", "scale")

    @bounded
    def __init__(
        self,
        bits: Annotated[int, Ge(2), Le(8)] = 8,
        group: Annotated[int, Ge(2)] | None = None,
        zero_point: bool = False,
        scale: ScaleRule = "range",
        layers: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
    ) -> None:
        super().__init__(layers, exclude)
        self.bits, self.group, self.zero_point, self.scale = bits, group, zero_point, scale

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        chosen = self.weights(model)
        for name, weight in chosen.items():
            if self.group and weight.numel() % self.group:
                common = gcd(*(w.numel() for w in chosen.values()))
                raise self.config_error(
                    f"group={self.group} does not divide the {weight.numel()} entries of {name}; use a divisor of {common}, "
                    "which divides all of these layers, or exclude=[…]"
                )

    def begin(self, context: StageContext) -> None:
        weights = self.weights(context.model).items()
        grids = {name: fit_grid(w, self.bits, self.group, self.zero_point, self.scale) for name, w in weights}
        self.quantize(context, grids)


@torch.no_grad()
def fit_grid(
    weight: Tensor, bits: int, group: int | None = None, zero_point: bool = False, scale: ScaleRule = "range"
) -> QuantGrid:
    """Round a weight to a grid of `bits`.

    Args:
        group: number of consecutive entries that share a scale; None: those of an output channel (dimension 0).
        zero_point: the grid spans from the smallest entry to the largest, instead of symmetrically around zero. Zero is
            on the grid in both cases, so masked entries stay zero.
        scale: ``range``: the largest entry is the end of the grid; ``mse``: the fraction of that range, from 1 to 0.4,
            with the smallest squared error in each group (entries beyond it are clipped).
    """
    rows = weight.detach().float().reshape(-1, group or weight[0].numel())
    low, high = rows.amin(1, keepdim=True).clamp(max=0), rows.amax(1, keepdim=True).clamp(min=0)
    best, least = _round_to_grid(rows, low, high, bits, zero_point), torch.full_like(low, torch.inf)
    for shrink in SHRINKS if scale == "mse" else ():
        step, zero, q = found = _round_to_grid(rows, low * shrink, high * shrink, bits, zero_point)
        error = ((q - zero) * step - rows).square().sum(1, keepdim=True)
        best = tuple(torch.where(error < least, new, old) for new, old in zip(found, best, strict=True))
        least = torch.minimum(error, least)
    step, zero, q = best
    return QuantGrid(q.to(torch.int8).view(weight.shape), step, bits, zero.to(torch.int8) if zero_point else None)


def _round_to_grid(rows: Tensor, low: Tensor, high: Tensor, bits: int, zero_point: bool) -> tuple[Tensor, ...]:
    """Scale [G, 1], zero point [G, 1] and integers [G, g], all as floats."""
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    span = (high - low) / (most - least) if zero_point else torch.maximum(-low, high) / most
    step = torch.where(span > 0, span, torch.ones_like(span))
    zero = (least - low / step).round().clamp(least, most) if zero_point else torch.zeros_like(step)
    return step, zero, (rows / step + zero).round().clamp(least, most)
