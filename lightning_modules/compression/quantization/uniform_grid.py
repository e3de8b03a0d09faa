"""Fits a uniform quantization grid, integers times a scale, to a weight."""

from typing import Literal

import torch
from torch import Tensor

from lightning_modules.compression.compressed_state import QuantGrid

ScaleRule = Literal["range", "mse"]
SHRINKS = torch.linspace(1.0, 0.4, 61).tolist()  # fractions of the range that the search for the smallest error tries


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
