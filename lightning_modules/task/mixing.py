"""Mixing inside of the network: what a layer gives for a sample is blended with what it gives for its partner."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lightning_modules.augmentation.mixing import blend
from lightning_modules.errors import UserError


@contextmanager
def mixed_inside(model: nn.Module, batch: Mapping[str, Tensor]) -> Iterator[None]:
    """Blend the outputs of ``model.mixing_point`` by the batch's ``mix_partner`` and ``mix_weight``, where it has them.

    Verma et al. 2019, "Manifold Mixup"; at an embedding: Guo et al. 2019, "Augmenting Data with Mixup for Sentence
    Classification".

    Raises:
        UserError: the network says of no layer that its outputs can be mixed.
    """
    if "mix_partner" not in batch:
        yield
        return
    point = getattr(model, "mixing_point", None)
    if not isinstance(point, nn.Module):
        raise UserError(
            f"augmentation: {type(model).__name__} has no mixing_point, a layer whose outputs can be mixed; "
            "use a transform that mixes the samples themselves"
        )
    partner, weight = batch["mix_partner"], batch["mix_weight"]

    def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return blend(output, output[partner.to(output.device)], weight)

    handle = point.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
