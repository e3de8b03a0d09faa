"""One-dimensional k-means with exact Lloyd iterations: on sorted values a cluster is an interval."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Init = Literal["linear", "density", "random"]
MAX_ITERATIONS = 300


@dataclass
class SortedRows:
    """Rows of sorted numbers of different lengths, padded with infinity.

    Attributes:
        sorted: float64 [C, n].
        sums: float64 [C, n + 1], sums of the first 0 … n entries.
        counts: int64 [C, 1].
    """

    sorted: Tensor
    sums: Tensor
    counts: Tensor

    @classmethod
    def of(cls, values: Tensor, kept: Tensor) -> "SortedRows":
        """The entries of `values` [C, n] where `kept` is True."""
        ordered = values.double().masked_fill(~kept, torch.inf).sort(1).values
        finite = ordered.masked_fill(ordered.isinf(), 0.0)
        sums = torch.cat([finite.new_zeros(len(values), 1), finite.cumsum(1)], 1)
        return cls(ordered, sums, kept.sum(1, keepdim=True))

    def at(self, place: Tensor) -> Tensor:
        """The entries at the quantiles `place` [C, K] of each row; 0 in an empty row."""
        index = (place * (self.counts - 1)).round().long().clamp(min=0)
        return self.sorted.gather(1, index).nan_to_num(posinf=0.0)


def k_means(values: Tensor, kept: Tensor, clusters: int, start: Init, generator: torch.Generator) -> Tensor:
    """Ascending centroids, float32 [C, K], of the `kept` entries of each row of `values` [C, n].

    Args:
        start: ``linear``: evenly spaced between the row's minimum and maximum (Han et al. 2016, section 3.2: large
            weights, which matter most, get their own centroids); ``density``: quantiles; ``random``: random entries.

    The squared error decreases in every iteration (Lloyd 1982). An empty cluster keeps its centroid.
    """
    rows = SortedRows.of(values, kept)
    centroids = initial_centroids(rows, clusters, start, generator)
    for _ in range(MAX_ITERATIONS):
        moved = _cluster_means(rows, centroids)
        if torch.equal(moved, centroids):
            break
        centroids = moved
    return centroids.float()


def initial_centroids(rows: SortedRows, clusters: int, start: Init, generator: torch.Generator) -> Tensor:
    """Float64 [C, K], ascending."""
    count = len(rows.sorted)
    if start == "random":
        place = torch.rand(count, clusters, generator=generator, dtype=torch.float64)
        return rows.at(place.sort(1).values.to(rows.sorted.device))
    even = torch.linspace(0, 1, clusters, dtype=torch.float64, device=rows.sorted.device).expand(count, -1)
    if start == "density":
        return rows.at(even * (1 - 1 / clusters) + 0.5 / clusters)
    low, high = rows.at(even[:, :1]), rows.at(torch.ones_like(even[:, :1]))
    return low + (high - low) * even


def _cluster_means(rows: SortedRows, centroids: Tensor) -> Tensor:
    """The mean of the entries nearest to each centroid."""
    between = (centroids[:, 1:] + centroids[:, :-1]) / 2
    inner = torch.searchsorted(rows.sorted, between.contiguous(), right=True).minimum(rows.counts)
    bounds = torch.cat([torch.zeros_like(rows.counts), inner, rows.counts], 1)
    sizes = bounds.diff(dim=1)
    sums = rows.sums.gather(1, bounds).diff(dim=1)
    return torch.where(sizes > 0, sums / sizes.clamp(min=1), centroids)


def nearest_centroid(values: Tensor, centroids: Tensor) -> Tensor:
    """The index, uint8 [C, n], of the nearest of the row's ascending `centroids` [C, K] for each of `values` [C, n]."""
    between = (centroids[:, 1:] + centroids[:, :-1]) / 2
    return torch.searchsorted(between.contiguous(), values.contiguous()).to(torch.uint8)
