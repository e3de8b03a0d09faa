"""The changed widths of a pruned network's layers as plain values, and a network resized to such widths."""

from typing import Any

import torch
from torch import nn

from lightning_modules.compat.torch import BatchOrInstanceNorm, Convolution
from lightning_modules.compression.meta_copy import meta_copy

Norm = (BatchOrInstanceNorm, nn.GroupNorm, nn.LayerNorm)


def diff_widths(before: nn.Module, after: nn.Module) -> dict[str, Any]:
    """The differences between a network and the same network with fewer channels.

    Returns:
        ``layers``: by module, its integer attributes that changed (``out_channels``, ``heads``);
        ``tensors``: shapes that do not follow from those, by name in the state dict.
    """
    layers: dict[str, dict[str, Any]] = {}
    old = dict(before.named_modules())
    for name, module in after.named_modules():
        was = _integer_attributes(old[name])
        if changed := {key: value for key, value in _integer_attributes(module).items() if was.get(key) != value}:
            layers[name] = changed
    implied = resize_layers(meta_copy(before), {"layers": layers}).state_dict()
    tensors = {k: list(t.shape) for k, t in after.state_dict().items() if t.shape != implied[k].shape}
    return {"layers": layers, **({"tensors": tensors} if tensors else {})}


def resize_layers(model: nn.Module, step: dict[str, Any]) -> nn.Module:
    """Apply the result of `diff_widths` to `model` in place; resized tensors become zeros."""
    for name, numbers in step["layers"].items():
        module = model.get_submodule(name)
        for key, value in numbers.items():
            setattr(module, key, tuple(value) if isinstance(value, list) else value)
        for own, shape in _tensor_shapes(module).items():
            _replace_tensor(module, own, shape)
    for name, shape in step.get("tensors", {}).items():
        parent, _, own = name.rpartition(".")
        _replace_tensor(model.get_submodule(parent), own, tuple(shape))
    return model


def _integer_attributes(module: nn.Module) -> dict[str, Any]:
    """A module's integer attributes, and tuples of integers (as lists, as in JSON)."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in vars(module).items()
        if not key.startswith("_") and (type(value) is int or (isinstance(value, tuple) and _all_integers(value)))
    }


def _all_integers(values: tuple[Any, ...]) -> bool:
    return all(type(value) is int for value in values)


def _tensor_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of a layer's tensors according to its attributes."""
    if isinstance(module, nn.Linear):
        return {"weight": (module.out_features, module.in_features), "bias": (module.out_features,)}
    if isinstance(module, Convolution):
        outputs, inputs = module.out_channels, module.in_channels
        first = (inputs, outputs // module.groups) if module.transposed else (outputs, inputs // module.groups)
        return {"weight": (*first, *module.kernel_size), "bias": (outputs,)}
    if isinstance(module, Norm):
        own: Any = module
        if isinstance(module, nn.LayerNorm):
            shape = tuple(own.normalized_shape)
        else:
            shape = (own.num_channels if isinstance(module, nn.GroupNorm) else own.num_features,)
        return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), shape)
    return {}


def _replace_tensor(module: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    tensor = getattr(module, name, None)
    if tensor is None or tensor.shape == shape:
        return
    new = torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
    setattr(module, name, nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new)
