"""The widths of a network's layers: which must not change, how they changed by pruning, and a plot of the change."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_modules.compat.torch import BatchOrInstanceNorm, Convolution
from lightning_modules.compression.compressed_state import Step
from lightning_modules.compression.profiling import meta_copy
from lightning_modules.report.figures import COLOURS, GRID, INK, blank_figure, style_axes

Norm = (BatchOrInstanceNorm, nn.GroupNorm, nn.LayerNorm)
LINEAR_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def diff_widths(before: nn.Module, after: nn.Module) -> dict[str, object]:
    """The differences between a network and the same network with fewer channels.

    Returns:
        ``layers``: by module, its integer attributes that changed (``out_channels``, ``heads``);
        ``tensors``: shapes that do not follow from those, by name in the state dict.
    """
    layers: dict[str, dict[str, object]] = {}
    old = dict(before.named_modules())
    for name, module in after.named_modules():
        was = _integer_attributes(old[name])
        if changed := {key: value for key, value in _integer_attributes(module).items() if was.get(key) != value}:
            layers[name] = changed
    implied = resize_layers(meta_copy(before), {"layers": layers}).state_dict()
    tensors = {k: list(t.shape) for k, t in after.state_dict().items() if t.shape != implied[k].shape}
    return {"layers": layers, **({"tensors": tensors} if tensors else {})}


def resize_layers(model: nn.Module, step: Step) -> nn.Module:
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


def _integer_attributes(module: nn.Module) -> dict[str, object]:
    """A module's integer attributes, and tuples of integers (as lists, as in JSON)."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in vars(module).items()
        if not key.startswith("_") and (type(value) is int or (isinstance(value, tuple) and _all_integers(value)))
    }


def _all_integers(values: tuple[object, ...]) -> bool:
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


def find_output_layers(model: nn.Module, example: Tensor) -> set[str]:
    """Names of the linear and convolutional layers whose output reaches the network's output through no other layer.

    Every layer's output is detached from its inputs; the layers that still get a gradient are the last ones. `model` is
    in evaluation mode.
    """
    given: dict[str, Tensor] = {}

    def cut(name: str, output: Tensor) -> Tensor:
        given[name] = output.detach().requires_grad_()
        return given[name].clone()  # an in-place activation must not change a leaf

    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: cut(name, output))
        for name, module in model.named_modules()
        if isinstance(module, LINEAR_LAYERS)
    ]
    try:
        with torch.enable_grad():
            total = model(example).sum()
    finally:
        for hook in hooks:
            hook.remove()
    if not given or not total.requires_grad:
        return set()
    gradients = torch.autograd.grad(total, list(given.values()), allow_unused=True)
    return {name for name, gradient in zip(given, gradients, strict=True) if gradient is not None}


def plot_widths(dense: nn.Module, thin: nn.Module, title: str, path: Path) -> None:
    """Plot how many outputs each layer keeps, with the first layer on top."""
    before, after = _output_widths(dense), _output_widths(thin)
    names = list(before)
    places = np.arange(len(names))
    figure = blank_figure(7, 1.2 + 0.24 * len(names))
    axes = figure.add_subplot()
    style_axes(axes, title, "outputs", "", grid=False)
    axes.barh(places, [before[name] for name in names], color=GRID, label="before")
    axes.barh(places, [after[name] for name in names], color=COLOURS[0], height=0.5, label="kept")
    for place, name in enumerate(names):
        axes.text(before[name], place, f" {after[name]}", va="center", fontsize=7, color=INK)
    axes.set_yticks(places, names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.margins(x=0.1)
    figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path)


def _output_widths(model: nn.Module) -> dict[str, int]:
    """Number of outputs of each layer, by name."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LINEAR_LAYERS)}
    return {n: m.out_features if isinstance(m, nn.Linear) else m.out_channels for n, m in layers.items()}
