"""Large images in overlapping tiles, whose outputs are averaged."""

from collections.abc import Callable

import torch
from torch import Tensor


def in_tiles(network: Callable[[Tensor], Tensor], x: Tensor, tile: int, overlap: int) -> Tensor:
    """Outputs [B, K, H, W] of images [B, C, H, W], computed in tiles of at most `tile` pixels a side.

    Neighbouring tiles overlap by at least `overlap` pixels. There their outputs are averaged, with weights that fall linearly
    to the border of a tile, where a network sees least of the surroundings.
    """
    height, width = x.shape[2:]
    tall, wide = min(tile, height), min(tile, width)
    weights = _ramp(tall, overlap)[:, None].mul(_ramp(wide, overlap)).to(x.device)
    total: Tensor | None = None
    for top in _starts(height, tall, overlap):
        for left in _starts(width, wide, overlap):
            outputs = network(x[:, :, top : top + tall, left : left + wide])
            if total is None:
                total = outputs.new_zeros(len(x), outputs.shape[1] + 1, height, width)  # the last: sums of weights
            part = total[:, :, top : top + tall, left : left + wide]
            part[:, :-1] += outputs * weights
            part[:, -1] += weights
    assert total is not None
    return total[:, :-1] / total[:, -1:]


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """First pixels of the tiles along a side; the last one ends with the image."""
    return [*range(0, length - tile, tile - overlap), length - tile]


def _ramp(length: int, overlap: int) -> Tensor:
    """Weights [length]: 1, and falling to 1 / (overlap + 1) within `overlap` pixels of either end."""
    place = torch.arange(length)
    return (torch.minimum(place, length - 1 - place) + 1).clamp(max=overlap + 1) / (overlap + 1)
