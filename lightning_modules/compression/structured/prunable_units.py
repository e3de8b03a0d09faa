"""Prunable units of a network: coupled channels, which can only be removed together, and attention heads.

torch-pruning finds the couplings by a dependency graph (Fang et al. 2023, "DepGraph: Towards Any Structural Pruning",
arXiv:2301.12900).
"""

import math
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightning_modules.compression import optional_import
from lightning_modules.compression.structured.importance import AttentionParts, ChannelImportance, find_attentions
from lightning_modules.compression.structured.layer_widths import LINEAR_LAYERS

if TYPE_CHECKING:
    from torch_pruning.dependency import Dependency, DependencyGraph, Group

# Classes of networks that torch-pruning needs minutes and many gigabytes to trace.
TOO_SLOW_TO_TRACE = ("SwinTransformer", "SwinTransformerV2", "MlpMixer")
# Networks that shuffle channels between groups, which torch-pruning does not track.
CHANNEL_SHUFFLING = ("ShuffleNetV2",)


@dataclass
class PrunableUnits:
    """The units in which a layer's outputs can be removed.

    Attributes:
        layer: the name of the layer.
        channels: for each unit, its channels among the layer's outputs.
        scores: [units], their importance, with mean 1 within the layer.
        coupled: whether outputs of several layers are removed together, as in a residual stream.
        attention: the attention whose heads are the units, or None.
    """

    layer: str
    channels: list[list[int]]
    scores: Tensor
    coupled: bool = False
    attention: AttentionParts | None = None


def unsupported_reason(model: nn.Module) -> str | None:
    """Why `model` cannot be pruned, if that is known from its class."""
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            return "recurrent layers are not supported: a layer's gates share one matrix, so no channel can be removed"
        if type(module).__name__ in TOO_SLOW_TO_TRACE:
            return f"torch-pruning cannot trace a {type(module).__name__} in reasonable time and memory"
        if type(module).__name__ in CHANNEL_SHUFFLING:
            return (
                f"torch-pruning cannot trace a {type(module).__name__}, which shuffles channels between groups; "
                "use unstructured pruning (compression=magnitude) or another network"
            )
    return None


def dependency_graph(model: nn.Module, example: Tensor) -> "DependencyGraph":
    """torch-pruning's dependency graph of `model`, traced with one sample; raises any exception of torch-pruning."""
    learns = [(p, p.requires_grad) for p in model.parameters()]
    training = model.training
    try:
        model.eval().requires_grad_(True)
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")  # parameters outside layers are pruned along their last dimension
            return optional_import("torch_pruning").DependencyGraph().build_dependency(model, example)
    finally:
        model.train(training)
        for parameter, flag in learns:
            parameter.requires_grad_(flag)


def find_units(
    model: nn.Module, graph: "DependencyGraph", fixed: Collection[str], importance: ChannelImportance
) -> list[PrunableUnits]:
    """All units of `model`, in its order, except those that would change an output of the layers in `fixed`."""
    names = {module: name for name, module in model.named_modules()}
    heads = find_attentions(model)
    untouched = {*fixed, *(attention.qkv for attention in heads)}
    found = [_head_units(model, attention, importance) for attention in heads if attention.qkv not in fixed]
    for group in graph.get_all_groups(root_module_types=list(LINEAR_LAYERS)):
        outputs = {names[layer] for layer in _pruned_output_layers(graph, group)}
        if (
            outputs & untouched
            or not _is_traced_correctly(graph, group)
            or (channel_scores := importance.score_channels(group)) is None
        ):
            continue
        root = names[group[0].dep.target.module]
        found.append(_channel_units(graph, group, root, channel_scores, coupled=len(outputs) > 1))
    order = {name: place for place, name in enumerate(names.values())}
    return sorted(found, key=lambda units: order[units.layer])


def remove_units(model: nn.Module, graph: "DependencyGraph", units: PrunableUnits, gone: Sequence[int]) -> None:
    """Remove the units `gone` from `model` and from all coupled layers."""
    channels = sorted(channel for unit in gone for channel in units.channels[unit])
    if units.attention is not None:
        units.attention.remove(model, gone, channels)
    elif channels:
        layer = model.get_submodule(units.layer)
        graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, channels).prune()


def select_units(units: PrunableUnits, threshold: float, max_ratio: float, round_to: int) -> list[int]:
    """The units of one layer to remove: those that score at most `threshold`, but at most the fraction `max_ratio`.

    At least one unit is kept; the kept channels are a multiple of `round_to`, or all.
    """
    total, size = len(units.channels), len(units.channels[0])
    gone = min(int((units.scores <= threshold).sum()), int(max_ratio * total + 1e-9), total - 1)
    multiple = round_to // math.gcd(round_to, size)
    kept = min(total, math.ceil((total - gone) / multiple) * multiple)
    return units.scores.argsort(stable=True)[: total - kept].tolist()


def _pruned_output_layers(graph: "DependencyGraph", group: "Group") -> Iterator[nn.Module]:
    """The layers of a group that lose outputs; a depthwise convolution only follows its inputs."""
    for dep, _ in group:
        layer = dep.target.module
        if isinstance(layer, nn.MultiheadAttention) or (
            isinstance(layer, LINEAR_LAYERS)
            and graph.is_out_channel_pruning_fn(dep.handler)
            and not 1 < getattr(layer, "groups", 1) == layer.out_channels
        ):
            yield layer


def _is_traced_correctly(graph: "DependencyGraph", group: "Group") -> bool:
    """Whether the graph tracked the channels correctly, which fails where a tensor is padded or split.

    Then a group covers only some outputs of a layer, or more inputs than a layer has. Nothing can be removed around
    torch's own attention, whose input width must match its heads.
    """
    for dep, channels in group:
        layer = dep.target.module
        if isinstance(layer, nn.MultiheadAttention):
            return False
        if isinstance(layer, LINEAR_LAYERS):
            gives = graph.is_out_channel_pruning_fn(dep.handler)
            width = graph.get_out_channels(layer) if gives else graph.get_in_channels(layer)
            if max(channels) >= width or (gives and len(set(channels)) < width):
                return False
    return True


def _channel_units(
    graph: "DependencyGraph", group: "Group", root: str, channel_scores: Tensor, coupled: bool
) -> PrunableUnits:
    """Single channels or, for a grouped layer, the same channel of all its groups."""
    groups = max(_num_groups(graph, dep) for dep, _ in group)
    size = len(channel_scores) // groups
    scores = channel_scores.view(groups, size).mean(0)
    return PrunableUnits(
        root, [[g * size + i for g in range(groups)] for i in range(size)], _normalize(scores), coupled
    )


def _num_groups(graph: "DependencyGraph", dep: "Dependency") -> int:
    layer = dep.target.module
    if isinstance(layer, nn.GroupNorm):
        return layer.num_groups
    groups = getattr(layer, "groups", 1) if isinstance(layer, LINEAR_LAYERS) else 1
    return 1 if groups == getattr(layer, "out_channels", 0) else groups


def _head_units(model: nn.Module, attention: AttentionParts, importance: ChannelImportance) -> PrunableUnits:
    scores = importance.score_heads(model, attention)
    return PrunableUnits(attention.qkv, attention.rows(model), _normalize(scores), attention=attention)


def _normalize(scores: Tensor) -> Tensor:
    scores = scores.detach().float().cpu()
    return torch.nan_to_num(scores / scores.mean(), nan=1.0)
