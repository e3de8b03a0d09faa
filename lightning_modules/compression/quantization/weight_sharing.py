"""Weight sharing: the entries of a layer take 2^bits shared values, found by k-means (Han et al. 2016, section 3)."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from lightning_modules.compression.compressed_state import Codebook, QuantizedWeight
from lightning_modules.compression.quantization.kmeans import Init, k_means, nearest_centroid
from lightning_modules.compression.stage import LayerStage, StageContext
from lightning_modules.config.bounds import bounded

Granularity = Literal["layer", "channel"]


class WeightQuantization(LayerStage):
    """A stage that replaces weights by codebooks or grids; masked entries stay zero."""

    kind = "weight_quantization"

    def quantize(self, context: StageContext, found: Mapping[str, QuantizedWeight]) -> None:
        """Add codebooks or grids to the compressed state and apply it. Raises UserError if no weight changes."""
        weights = self.weights(context.model)
        for name, quantized in found.items():
            context.state.add(name, quantized)
        if all(torch.equal(context.state.values(name), weights[name]) for name in found):
            raise self.config_error("no weight changed: all weights already have few enough values")
        context.state.apply(context.model)


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
