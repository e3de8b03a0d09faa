"""Importance of channels and attention heads for structured pruning: magnitude, Taylor, random."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_modules.compression.optional_import import optional_import
from lightning_modules.compression.stage import StageContext
from lightning_modules.compression.structured.attention_heads import AttentionParts
from lightning_modules.config.errors import UserError

ImportanceKind = Literal["magnitude", "taylor", "random"]


class ChannelImportance:
    """Scores the channels of a group of torch-pruning, and attention heads.

    ``magnitude``: squared L2 norm of all weights of a channel, averaged over the layers of its group. ``taylor``: the
    same of |w * dL/dw| (Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", eq. 8, for single
    weights); needs gradients in the parameters. ``random``: uniform, the control.
    """

    def __init__(self, kind: ImportanceKind, seed: int = 0) -> None:
        self.kind = kind
        self.generator = torch.Generator().manual_seed(seed)
        library = optional_import("torch_pruning").importance
        self.of_group = {
            "magnitude": library.GroupMagnitudeImportance(p=2),
            "taylor": library.GroupTaylorImportance(),
            "random": lambda group: self._random(len(group[0].idxs)),
        }[kind]

    def score_channels(self, group: Any) -> Tensor | None:
        """[channels] of a group's first layer; None if the group has no weights."""
        return self.of_group(group)

    def score_heads(self, model: nn.Module, attention: AttentionParts) -> Tensor:
        """[heads], summed over the rows of the qkv layer and the columns of the projection."""
        rows = torch.tensor(attention.rows(model))
        if self.kind == "random":
            return self._random(len(rows))
        weights = _elementwise_importance(model, attention.qkv, self.kind).sum(1)
        columns = _elementwise_importance(model, attention.projection, self.kind).sum(0)
        per_part = len(rows[0]) // 3
        return weights[rows].sum(1) + columns[rows[:, :per_part]].sum(1)

    def _random(self, count: int) -> Tensor:
        return torch.rand(count, generator=self.generator)


def _elementwise_importance(model: nn.Module, layer: str, kind: str) -> Tensor:
    weight: Any = model.get_submodule(layer).weight
    return (weight.detach() * (weight.detach() if kind == "magnitude" else weight.grad)).abs()


def accumulate_gradients(context: StageContext, batches: int) -> None:
    """Sum the gradients of the loss over the first training batches in the network's parameters.

    Raises UserError if there is no batch.
    """
    model, seen = context.model, 0
    device = next(model.parameters()).device
    training, learns = model.training, [p.requires_grad for p in model.parameters()]
    model.eval().requires_grad_(True)
    model.zero_grad()
    with torch.enable_grad():
        for batch in _take(context.batches(), batches):
            batch = {key: value.to(device) for key, value in batch.items()}
            context.task.loss(model(context.preprocess(batch["x"])), context.task.loss_target(batch)).backward()
            seen += 1
    model.train(training)
    for parameter, flag in zip(model.parameters(), learns, strict=True):
        parameter.requires_grad_(flag)
    if not seen:
        raise UserError("importance=taylor needs training batches, but there are none")


def _take(batches: Iterable[dict[str, Tensor]], count: int) -> Iterable[dict[str, Tensor]]:
    for _, batch in zip(range(count), batches, strict=False):
        yield batch
