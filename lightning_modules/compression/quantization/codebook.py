"""Weight sharing: the entries of a layer take 2^bits values, found by k-means (Han et al. 2016, section 3)."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_modules.compression.form import Codebook
from lightning_modules.compression.quantization.kmeans import STARTS, Start, k_means, nearest_centroid
from lightning_modules.compression.stage import Stage, Work, weights_of
from lightning_modules.errors import UserError, nearest

Per = Literal["layer", "channel"]


class SharedWeights(Stage):
    """Replaces each weight by the nearest of its layer's 2^bits centroids.

    Entries that a mask holds at zero stay zero and take no part. With `epochs` the centroids are fine-tuned: the
    gradient of a centroid is the sum of its entries' (equation 3), and which entry belongs to which stays as it is.

    Args:
        bits: 1 to 8.
        per: ``layer``, or ``channel``: a codebook for each output channel (dimension 0 of the weight), which costs
            2^bits numbers a channel.
        start: of k-means: linear, density or random.
        layers, exclude: names or patterns of layers; None: all linear, convolutional and recurrent ones.
    """

    kind = "share"

    def __init__(
        self,
        bits: int = 5,
        per: Per = "layer",
        start: Start = "linear",
        layers: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        epochs: int = 0,
        lr: float | None = None,
    ) -> None:
        super().__init__("after", epochs, lr)
        if bits not in range(1, 9):
            raise UserError(f"compression: bits={bits}: a codebook has 1 to 8")
        if per not in get_args(Per):
            raise UserError(f"compression: per={per}: {nearest(str(per), get_args(Per))}")
        if start not in STARTS:
            raise UserError(f"compression: start={start}: {nearest(str(start), STARTS)}")
        self.bits, self.per, self.start = bits, per, start
        self.layers, self.exclude = layers, exclude

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        chosen_weights(self, model)

    def begin(self, work: Work) -> None:
        generator = torch.Generator().manual_seed(work.seed)
        changed = False
        for name, weight in chosen_weights(self, work.model).items():
            book = codebook_of(weight, work.form.masks.get(name), self.bits, self.per, self.start, generator)
            work.form.codebooks[name] = book
            values = book.values()
            if name in work.form.masks:
                values = values * work.form.masks[name].to(values.device)
            changed = changed or not torch.equal(values, weight)
        if not changed:
            raise self.mistake(
                f"bits={self.bits}: no weight changed: there are no more than {2**self.bits} values a {self.per}"
            )
        work.form.apply(work.model)

    def settings(self) -> dict[str, Any]:
        return {"bits": self.bits, "per": self.per, "start": self.start}


def chosen_weights(stage: Any, model: nn.Module) -> dict[str, Tensor]:
    """The weights of `stage.layers` without `stage.exclude`. Raises UserError where there is none."""
    try:
        chosen = weights_of(model, layers=stage.layers, exclude=stage.exclude)
    except UserError as error:
        raise stage.mistake(str(error)) from None
    if not chosen:
        raise stage.mistake("the network has no linear, convolutional or recurrent layer that is left to it")
    return chosen


@torch.no_grad()
def codebook_of(
    weight: Tensor, mask: Tensor | None, bits: int, per: Per, start: Start, generator: torch.Generator
) -> Codebook:
    """The codebook of one weight; where `mask` is False the index is 0."""
    rows = weight.detach().reshape(len(weight) if per == "channel" else 1, -1)
    kept = torch.ones_like(rows, dtype=torch.bool) if mask is None else mask.to(rows.device).view_as(rows)
    centroids = k_means(rows, kept, 2**bits, start, generator)
    indices = nearest_centroid(rows.float(), centroids).masked_fill(~kept, 0).view(weight.shape)
    return Codebook(indices, centroids if per == "channel" else centroids[0])
