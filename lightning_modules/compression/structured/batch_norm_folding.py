"""Batch-norm folding: merges a batch norm into the weights of the convolution or linear layer before it."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from lightning_modules.compat.torch import BatchNorm
from lightning_modules.compression.compressed_state import Step
from lightning_modules.compression.stage import Stage, StageContext
from lightning_modules.compression.structured.layer_widths import LINEAR_LAYERS
from lightning_modules.config.bounds import bounded

_MAX_ERROR = 1e-4  # largest allowed change of an output, relative to the largest output


class FoldBatchNorm(Stage):
    """Folds every batch norm into the layer before it, if nothing else reads that layer's output.

    In evaluation mode a batch norm is an affine map of its running statistics: w * gamma / sqrt(var + eps), and the
    bias likewise (Jacob et al. 2018, section 3.2). The outputs are equal; there is less to store and run, and later
    stages train without batch norm. A batch norm before its layer, or after an addition, is kept.
    """

    kind = "structure"
    saved: ClassVar = {"folded": "folded"}
    reported = ("folded",)
    folded = 0  # number of batch norms

    @bounded
    def __init__(self, when: Literal["after"] = "after", **fit: Any) -> None:
        super().__init__(when, **fit)

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        """Reject a network without a batch norm that can be folded."""
        if not find_foldable_pairs(model, example):
            norms = sum(isinstance(module, BatchNorm) for module in model.modules())
            raise self.config_error(f"none of the network's {norms} batch norms follows a layer it can be folded into")

    def begin(self, context: StageContext) -> None:
        model = context.model
        example = context.preprocess(context.example).to(next(model.parameters()).device)
        self.check(model, example, 0)
        found = find_foldable_pairs(model, example)
        before = _eval_outputs(model, example)
        for layer, norm in found:
            _fold_pair(model, layer, norm)
        error = float((_eval_outputs(model, example) - before).abs().max() / before.abs().max().clamp(min=1.0))
        if not error <= _MAX_ERROR:
            raise self.config_error(
                f"the outputs changed by {error:.1e} relative to the largest, more than {_MAX_ERROR:.0e}"
            )
        self.folded = len(found)
        context.state.steps.append({"do": "fold", "pairs": [list(pair) for pair in found]})
        context.log(
            {f"compression/{self.name}/folded": float(self.folded), f"compression/{self.name}/max_error": error}
        )


def restore(model: nn.Module, step: Step, example: Tensor) -> nn.Module:
    """Add biases to the layers and remove the batch norms."""
    for layer, norm in step["pairs"]:
        _fold_pair(model, layer, norm)
    return model


def find_foldable_pairs(model: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Names (layer, batch norm) where only the batch norm reads the layer's output and each is called once.

    Found in the autograd graph of one forward pass, so it works for any network that runs.
    """
    given: dict[str, list[Node | None]] = {}  # by module: the nodes that produced its outputs
    read: dict[str, Node | None] = {}  # by batch norm: the node that produced its input

    def note(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        given.setdefault(name, []).append(output.grad_fn)
        if isinstance(module, BatchNorm):
            read[name] = inputs[0].grad_fn

    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: note(name, module, inputs, output))
        for name, module in model.named_modules()
        if isinstance(module, (*LINEAR_LAYERS, BatchNorm))
    ]
    training = model.training
    try:
        with torch.enable_grad():
            output = model.eval()(example.detach().clone().requires_grad_(example.is_floating_point()))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    readers = _count_consumers(output.grad_fn)
    makers = {nodes[0]: name for name, nodes in given.items() if name not in read and len(nodes) == 1}
    found = []
    for norm, node in read.items():
        has_statistics = getattr(model.get_submodule(norm), "running_var", None) is not None
        if node in makers and has_statistics and len(given[norm]) == 1 and node is not None and readers.get(node) == 1:
            found.append((makers[node], norm))
    return found


def _count_consumers(node: Node | None) -> dict[Node, int]:
    """For each node of the graph behind `node`, how many nodes read its output."""
    counts: dict[Node, int] = {}
    waiting = [] if node is None else [node]
    seen = set(waiting)
    while waiting:
        for following, _ in waiting.pop().next_functions:
            if following is None:
                continue
            counts[following] = counts.get(following, 0) + 1
            if following not in seen:
                seen.add(following)
                waiting.append(following)
    return counts


def _fold_pair(model: nn.Module, layer_name: str, norm_name: str) -> None:
    layer: Any = model.get_submodule(layer_name)
    norm: Any = model.get_submodule(norm_name)
    training, learns = layer.training, layer.weight.requires_grad
    fused: nn.Module
    if isinstance(layer, nn.Linear):
        fused = fuse_linear_bn_eval(layer.eval(), norm.eval())
    else:
        fused = fuse_conv_bn_eval(layer.eval(), norm.eval(), bool(getattr(layer, "transposed", False)))
    model.set_submodule(layer_name, fused.train(training).requires_grad_(learns))
    model.set_submodule(norm_name, nn.Identity().train(training))


def _eval_outputs(model: nn.Module, example: Tensor) -> Tensor:
    training = model.training
    try:
        with torch.no_grad():
            return model.eval()(example)
    finally:
        model.train(training)
