"""Whole numbers times a scale: the grid of a weight."""

from typing import Literal

import torch
from torch import Tensor

from lightning_modules.compression.compressed_state import QuantGrid

ScaleRule = Literal["range", "mse"]
SHRINKS = torch.linspace(1.0, 0.4, 61).tolist()  # of the range, that the search for the least error tries


@torch.no_grad()
def fit_grid(
    weight: Tensor, bits: int, group: int | None = None, zero_point: bool = False, scale: ScaleRule = "range"
) -> QuantGrid:
    """The nearest grid of `bits` to a weight.

    Args:
        group: so many consecutive entries share a scale; None: those of an output channel (dimension 0).
        zero_point: the grid spans from the least entry to the greatest, not evenly around zero; zero is a value of it
            in both cases, so that masked entries stay zero.
        scale: ``range``: the greatest entry is the end of the grid; ``mse``: the part of that range, from 1 to 0.4,
            whose squared error is least in each group (entries beyond it are clipped).
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
    """Scale [G, 1], zero point [G, 1] and whole numbers [G, g], all as floats."""
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    span = (high - low) / (most - least) if zero_point else torch.maximum(-low, high) / most
    step = torch.where(span > 0, span, torch.ones_like(span))
    zero = (least - low / step).round().clamp(least, most) if zero_point else torch.zeros_like(step)
    return step, zero, (rows / step + zero).round().clamp(least, most)
