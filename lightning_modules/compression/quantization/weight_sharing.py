"""Weight sharing: the entries of a layer take 2^bits shared values, found by k-means (Han et al. 2016, section 3)."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from lightning_modules.compression.compressed_state import Codebook
from lightning_modules.compression.quantization.kmeans import Init, k_means, nearest_centroid
from lightning_modules.compression.stage import Settings, Stage, StageContext, layer_weights
from lightning_modules.config.bounds import bounded
from lightning_modules.config.errors import UserError

Granularity = Literal["layer", "channel"]


class WeightSharing(Stage):
    """Replaces each weight by the nearest of its layer's 2^bits centroids.

    Masked entries stay zero and are ignored. With `epochs` the centroids are fine-tuned: the gradient of a centroid is
    the sum of its entries' gradients (equation 3), while the assignment of entries to centroids does not change.

    Args:
        bits: 1 to 8.
        per: ``layer``, or ``channel``: a codebook of 2^bits numbers for each output channel (dimension 0 of the weight).
        start: initialization of k-means: linear, density or random.
        layers, exclude: names or patterns of layers; None: all linear, convolutional and recurrent ones.
    """

    kind = "weight_quantization"

    @bounded
    def __init__(
        self,
        bits: Annotated[int, Ge(1), Le(8)] = 5,
        per: Granularity = "layer",
        start: Init = "linear",
        layers: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        epochs: int = 0,
        lr: float | None = None,
    ) -> None:
        super().__init__("after", epochs, lr)
        self.bits, self.per, self.start = bits, per, start
        self.layers, self.exclude = layers, exclude

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        select_weights(self, model)

    def begin(self, context: StageContext) -> None:
        generator = torch.Generator().manual_seed(context.seed)
        changed = False
        for name, weight in select_weights(self, context.model).items():
            book = fit_codebook(weight, context.state.masks.get(name), self.bits, self.per, self.start, generator)
            context.state.codebooks[name] = book
            values = book.values()
            if name in context.state.masks:
                values = values * context.state.masks[name].to(values.device)
            changed = changed or not torch.equal(values, weight)
        if not changed:
            raise self.config_error(
                f"bits={self.bits}: no weight changed: each {self.per} already has at most {2**self.bits} values"
            )
        context.state.apply(context.model)

    def settings(self) -> Settings:
        return {"bits": self.bits, "per": self.per, "start": self.start}


def select_weights(stage: Any, model: nn.Module) -> dict[str, Tensor]:
    """The weights of `stage.layers` without `stage.exclude`. Raises UserError if there are none."""
    try:
        chosen = layer_weights(model, layers=stage.layers, exclude=stage.exclude)
    except UserError as error:
        raise stage.config_error(str(error)) from None
    if not chosen:
        raise stage.config_error("the network has no linear, convolutional or recurrent layer to quantize")
    return chosen


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
