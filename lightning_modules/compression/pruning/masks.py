"""Masks from scores: True where a weight is kept. Counts are exact; ties are broken by position."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

Masks = dict[str, Tensor]
CompetingGroups = Sequence[Sequence[str]]


def keep_highest(scores: Mapping[str, Tensor], groups: CompetingGroups, zeros: Sequence[int]) -> Masks:
    """Masks that prune exactly `zeros` weights of each group of tensors that compete with each other."""
    masks: Masks = {}
    for group, count in zip(groups, zeros, strict=True):
        flat = torch.cat([scores[name].flatten().float() for name in group])
        parts = _mask_of_highest(flat, count).split([scores[name].numel() for name in group])
        masks |= {name: part.view(scores[name].shape) for name, part in zip(group, parts, strict=True)}
    return masks


def _mask_of_highest(scores: Tensor, zeros: int) -> Tensor:
    """bool [n]: False for the `zeros` lowest of `scores` [n]; of equal scores the first are pruned."""
    if zeros == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    # kthvalue is ten times as fast as sorting, but torch's deterministic mode does not allow it on CUDA
    threshold = scores.sort().values[zeros - 1] if scores.is_cuda else scores.kthvalue(zeros).values
    lower, equal = scores < threshold, scores == threshold
    return ~(lower | (equal & (equal.cumsum(0) <= zeros - lower.sum())))


def keep_n_of_m(scores: Mapping[str, Tensor], n: int, m: int) -> Masks:
    """Keep the `n` highest of every `m` consecutive weights along the input dimension (1: [out, in, *kernel]).

    This is the layout of sparse tensor cores (Mishra et al. 2021, "Accelerating sparse deep neural networks", section 2).
    In a convolution the groups run over input channels, at one position of the kernel.
    """
    masks: Masks = {}
    for name, score in scores.items():
        groups = score.movedim(1, -1).unflatten(-1, (-1, m))
        lowest = groups.argsort(dim=-1, stable=True)[..., : m - n]
        kept = torch.ones_like(groups, dtype=torch.bool).scatter_(-1, lowest, False)
        masks[name] = kept.flatten(-2).movedim(-1, 1).contiguous()
    return masks


def exclude_pruned(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The scores, with -inf where a mask has already pruned."""
    return {
        name: score.masked_fill(~masks[name].to(score.device), -torch.inf) if name in masks else score
        for name, score in scores.items()
    }


def group_by_layer(names: Iterable[str]) -> list[list[str]]:
    """Group parameters by layer: a layer's weight and bias compete with each other."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    return list(layers.values())


def count_zeros(masks: Mapping[str, Tensor], names: Iterable[str]) -> int:
    """How many weights of these parameters are pruned."""
    return sum(int((~masks[name]).sum()) for name in names if name in masks)
