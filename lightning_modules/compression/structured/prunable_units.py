"""Units of a network that can only be removed together: coupled channels, and heads of attention.

Channels are coupled by a dependency graph (Fang et al. 2023, "DepGraph: Towards Any Structural Pruning",
arXiv:2301.12900), the work of torch-pruning.
"""

import math
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.compression.optional_import import optional_import
from lightning_modules.compression.structured.attention_heads import AttentionParts, find_attentions
from lightning_modules.compression.structured.importance import ChannelImportance
from lightning_modules.compression.structured.output_layers import LINEAR_LAYERS

# Networks whose trace takes torch-pruning minutes and many gigabytes, by class.
TOO_SLOW_TO_TRACE = ("SwinTransformer", "SwinTransformerV2", "MlpMixer")
# Networks that shuffle channels between groups, where torch-pruning loses track of them.
CHANNEL_SHUFFLING = ("ShuffleNetV2",)


@dataclass
class PrunableUnits:
    """What a layer's outputs are removed in.

    Attributes:
        layer: the layer by whose name they go.
        channels: for each unit, its channels among the layer's outputs.
        scores: [units], the worth of each, mean 1 within the layer.
        coupled: whether outputs of several layers go with them, as in a residual stream.
        attention: of whose heads they are the rows, or None.
    """

    layer: str
    channels: list[list[int]]
    scores: Tensor
    coupled: bool = False
    attention: AttentionParts | None = None


def unsupported_reason(model: nn.Module) -> str | None:
    """Why `model` is not even tried."""
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            return "the network is recurrent: the gates of a layer lie in one matrix, no channel can go"
        if type(module).__name__ in TOO_SLOW_TO_TRACE:
            return f"torch-pruning cannot follow a {type(module).__name__} in reasonable time and memory"
        if type(module).__name__ in CHANNEL_SHUFFLING:
            return (
                f"torch-pruning cannot follow a {type(module).__name__}, which shuffles channels between groups; "
                "use a mask (compression=magnitude) or another network"
            )
    return None


def dependency_graph(model: nn.Module, example: Tensor) -> Any:
    """torch-pruning's graph of `model`, which it traces with one sample; any exception of it may come out."""
    learns = [(p, p.requires_grad) for p in model.parameters()]
    training = model.training
    try:
        model.eval().requires_grad_(True)
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")  # parameters outside of layers are pruned along their last dimension
            return optional_import("torch_pruning").DependencyGraph().build_dependency(model, example)
    finally:
        model.train(training)
        for parameter, flag in learns:
            parameter.requires_grad_(flag)


def find_units(
    model: nn.Module, graph: Any, fixed: Collection[str], importance: ChannelImportance
) -> list[PrunableUnits]:
    """All units of `model`, in its order, but for those that would touch an output of the layers in `fixed`."""
    names = {module: name for name, module in model.named_modules()}
    heads = find_attentions(model)
    untouched = {*fixed, *(attention.qkv for attention in heads)}
    found = [_head_units(model, attention, importance) for attention in heads if attention.qkv not in fixed]
    for group in graph.get_all_groups(root_module_types=list(LINEAR_LAYERS)):
        outputs = {names[layer] for layer in _pruned_output_layers(graph, group)}
        if (
            outputs & untouched
            or not _is_traced_correctly(graph, group)
            or (worth := importance.score_channels(group)) is None
        ):
            continue
        root = names[group[0].dep.target.module]
        found.append(_channel_units(graph, group, root, worth, coupled=len(outputs) > 1))
    order = {name: place for place, name in enumerate(names.values())}
    return sorted(found, key=lambda units: order[units.layer])


def remove_units(model: nn.Module, graph: Any, units: PrunableUnits, gone: Sequence[int]) -> None:
    """Take the units `gone` out of `model`, and of all layers that they are coupled with."""
    channels = sorted(channel for unit in gone for channel in units.channels[unit])
    if units.attention is not None:
        units.attention.remove(model, gone, channels)
    elif channels:
        layer = model.get_submodule(units.layer)
        graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, channels).prune()


def select_units(units: PrunableUnits, threshold: float, max_ratio: float, round_to: int) -> list[int]:
    """The units of one layer that score at most `threshold`.

    At most the share `max_ratio` goes and one stays; what stays is a multiple of `round_to` channels, or all.
    """
    total, size = len(units.channels), len(units.channels[0])
    gone = min(int((units.scores <= threshold).sum()), int(max_ratio * total + 1e-9), total - 1)
    multiple = round_to // math.gcd(round_to, size)
    kept = min(total, math.ceil((total - gone) / multiple) * multiple)
    return units.scores.argsort(stable=True)[: total - kept].tolist()


def _pruned_output_layers(graph: Any, group: Any) -> Iterator[nn.Module]:
    """The layers of a group whose outputs go; a depthwise convolution only follows its inputs."""
    for dep, _ in group:
        layer = dep.target.module
        if isinstance(layer, nn.MultiheadAttention) or (
            isinstance(layer, LINEAR_LAYERS)
            and graph.is_out_channel_pruning_fn(dep.handler)
            and not 1 < getattr(layer, "groups", 1) == layer.out_channels
        ):
            yield layer


def _is_traced_correctly(graph: Any, group: Any) -> bool:
    """Whether the graph followed the channels rightly: it loses them where a tensor is padded or cut into parts.

    Then the outputs of a layer are covered in part, or more inputs than a layer has. torch's own attention needs
    its inputs to be as wide as all its heads, so that nothing can go there.
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


def _channel_units(graph: Any, group: Any, root: str, worth: Tensor, coupled: bool) -> PrunableUnits:
    """Single channels, or where a layer is grouped, the same channel of all its groups."""
    groups = max(_num_groups(graph, dep) for dep, _ in group)
    size = len(worth) // groups
    scores = worth.view(groups, size).mean(0)
    return PrunableUnits(
        root, [[g * size + i for g in range(groups)] for i in range(size)], _normalize(scores), coupled
    )


def _num_groups(graph: Any, dep: Any) -> int:
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
