"""Weight sharing: the entries of a layer take 2^bits shared values, found by k-means (Han et al. 2016, section 3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from lightning_modules.compression.compressed_state import Codebook, QuantizedWeight
from lightning_modules.compression.pruning.pruning_stage import PruningStage
from lightning_modules.compression.stage import LayerStage, StageContext
from lightning_modules.config.bounds import bounded

Granularity = Literal["layer", "channel"]
Init = Literal["linear", "density", "random"]  # of k-means
MAX_ITERATIONS = 300


class WeightQuantization(LayerStage):
    """A stage that replaces weights by codebooks or grids; masked entries stay zero."""

    kind = "weight_quantization"

    def quantize(self, context: StageContext, found: Mapping[str, QuantizedWeight]) -> None:
        """Add codebooks or grids to the compressed state and apply it. Raises UserError if no weight changes."""
        weights = self.weights(context.model)
        for name, quantized in found.items():
            context.state.add(name, quantized)
        if all(torch.equal(context.state.values(name), weights[name]) for name in found):
            raise self.config_error(
                "no weight changed: all weights already have few enough values; lower its bits, or leave the stage out: "
                f"compression.stages.{self.name}=null"
            )
        context.state.apply(context.model)

    def check_codebook_size(self, model: nn.Module, bits: int, per: Granularity = "layer") -> None:
        """Raise UserError if no codebook of 2^bits values is smaller than what the earlier stages leave of its weights."""
        weights = self.weights(model)
        kept = {name: (w if per == "layer" else w[0]).numel() for name, w in weights.items()}
        for stage in self.earlier:
            left = stage.most_kept(model) if isinstance(stage, PruningStage) else {}
            kept |= {name: min(kept[name], left[name]) for name in kept.keys() & left}
        if (most := max(kept.values())) <= 2**bits:
            raise self.config_error(
                f"no {per} has more than {most} entries to share 2^{bits} values; lower its bits, or leave the stage out: "
                f"compression.stages.{self.name}=null"
            )


class WeightSharing(WeightQuantization):
    """Replaces each weight by the nearest of its layer's 2^bits centroids; `LayerStage` selects the layers.

    With `epochs` the centroids are fine-tuned: the gradient of a centroid is the sum of its entries' gradients
    (equation 3), while the assignment of entries to centroids does not change.

    Args:
        bits: 1 to 8.
        per: ``layer``, or ``channel``: a codebook of 2^bits numbers for each output channel (dimension 0 of the weight).
        start: initialization of k-means: linear, density or random.
    """

    reported = ("bits", "per", "start")

    @bounded
    def __init__(
        self, bits: Annotated[int, Ge(1), Le(8)] = 5, per: Granularity = "layer", start: Init = "linear", **fit: Any
    ) -> None:
        super().__init__(**fit)
        self.bits, self.per, self.start = bits, per, start

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        self.check_codebook_size(model, self.bits, self.per)

    def begin(self, context: StageContext) -> None:
        generator, masks = torch.Generator().manual_seed(context.seed), context.state.masks
        found = {
            name: fit_codebook(weight, masks.get(name), self.bits, self.per, self.start, generator)
            for name, weight in self.weights(context.model).items()
        }
        self.quantize(context, found)


@torch.no_grad()
def fit_codebook(
    weight: Tensor, mask: Tensor | None, bits: int, per: Granularity, start: Init, generator: torch.Generator
) -> Codebook:
    """Fit the codebook of one weight; the index is 0 where `mask` is False."""
    rows = weight.detach().reshape(len(weight) if per == "channel" else 1, -1)
    kept = torch.ones_like(rows, dtype=torch.bool) if mask is None else mask.to(rows.device).view_as(rows)
    centroids = k_means(rows, kept, 2**bits, start, generator)
    indices = nearest_centroid(rows.float(), centroids).masked_fill(~kept, 0).view(weight.shape)
    return Codebook(indices, centroids if per == "channel" else centroids[0])


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
