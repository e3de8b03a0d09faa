"""Finds the layers that produce a network's outputs, whose widths must not change."""

import torch
from torch import Tensor, nn

LINEAR_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


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
