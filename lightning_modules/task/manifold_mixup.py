"""Manifold mixup: blends a hidden layer's outputs of two samples."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_modules.config.errors import UserError


def blend(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Return ``weight * a + (1 - weight) * b`` per sample: a, b float [B, …], weight [B]."""
    spread = weight.to(a.device, a.dtype).view(-1, *[1] * (a.ndim - 1))
    return torch.lerp(b, a, spread)


@contextmanager
def manifold_mixup(model: nn.Module, batch: Mapping[str, Tensor]) -> Iterator[None]:
    """Blend the outputs of layer ``model.mixing_point`` by ``mix_partner`` and ``mix_weight`` if the batch has them.

    Verma et al. 2019, "Manifold Mixup"; at an embedding: Guo et al. 2019, "Augmenting Data with Mixup for Sentence
    Classification".

    Raises:
        UserError: the network has no ``mixing_point``.
    """
    if "mix_partner" not in batch:
        yield
        return
    point = getattr(model, "mixing_point", None)
    if not isinstance(point, nn.Module):
        raise UserError(
            f"augmentation: {type(model).__name__} has no mixing_point (the layer whose outputs are "
            "mixed); use a transform that mixes the samples themselves"
        )
    partner, weight = batch["mix_partner"], batch["mix_weight"]

    def hook(_: nn.Module, __: object, output: Tensor) -> Tensor:
        return blend(output, output[partner.to(output.device)], weight)

    handle = point.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
