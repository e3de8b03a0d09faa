"""Importance of channels and attention heads for structured pruning, and the heads of a network.

Heads are those whose queries, keys and values come from one linear layer, as in our ViT and timm's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_modules.compression import optional_import

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

    def score_channels(self, group: object) -> Tensor | None:
        """[channels] of a group's first layer; None if the group has no weights."""
        return self.of_group(group)

    def score_heads(self, model: nn.Module, attention: "AttentionParts") -> Tensor:
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


@dataclass(frozen=True)
class AttentionParts:
    """Names of an attention's parts: attribute `count` of `module` is the number of heads; ``qkv`` gives [3, heads, dim]."""

    module: str
    count: str
    qkv: str
    projection: str

    def rows(self, model: nn.Module) -> list[list[int]]:
        """For each head, its rows of the qkv layer."""
        heads: int = getattr(model.get_submodule(self.module), self.count)
        width: int = self._layer(model, self.projection).in_features
        dim = width // heads
        return [[part * width + head * dim + i for part in range(3) for i in range(dim)] for head in range(heads)]

    def remove(self, model: nn.Module, gone: Sequence[int], rows: Sequence[int]) -> None:
        """Remove the heads `gone`, whose rows of the qkv layer are `rows`."""
        pruning = optional_import("torch_pruning")
        module: Any = model.get_submodule(self.module)
        qkv, projection = self._layer(model, self.qkv), self._layer(model, self.projection)
        width = projection.in_features
        pruning.prune_linear_out_channels(qkv, list(rows))
        pruning.prune_linear_in_channels(projection, [row for row in rows if row < width])
        setattr(module, self.count, getattr(module, self.count) - len(gone))
        if hasattr(module, "attn_dim"):  # timm
            module.attn_dim = projection.in_features

    @staticmethod
    def _layer(model: nn.Module, name: str) -> nn.Linear:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        return layer


def find_attentions(model: nn.Module) -> list[AttentionParts]:
    """All such attentions of `model`, in its order."""
    found = []
    for name, module in model.named_modules():
        layers = dict(module.named_children())
        qkv, projection = layers.get("qkv"), layers.get("projection", layers.get("proj"))
        count = next((key for key in ("heads", "num_heads") if isinstance(getattr(module, key, None), int)), None)
        if count is None or not isinstance(qkv, nn.Linear) or not isinstance(projection, nn.Linear):
            continue
        if qkv.out_features == 3 * projection.in_features:
            own = "projection" if "projection" in layers else "proj"
            found.append(AttentionParts(name, count, f"{name}.qkv".lstrip("."), f"{name}.{own}".lstrip(".")))
    return found
