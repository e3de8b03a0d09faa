"""Tensor parallelism: linear layers sharded over the ranks, which all see the same samples."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from lightning_modules.config.errors import UserError
from lightning_modules.model.mlp import ACTIVATIONS, MLP
from lightning_modules.zoo.strategy.model_parallel import ModelParallel


class TensorParallel(ModelParallel):
    """Linear layers sharded over the ranks, column-wise and row-wise; all ranks see the same samples.

    Shoeybi et al. 2019, "Megatron-LM", section 3; torch's ``parallelize_module`` with the plan of `parallelize_plan`.
    Equal to one process with the full model, except for dropout between two sharded layers, where the ranks draw the
    same mask for different units.
    """

    splits_samples = False

    def shard(self, model: nn.Module, mesh: DeviceMesh) -> None:
        torch.backends.mha.set_fastpath_enabled(False)  # torch's fused encoder layer does not support sharded weights
        plan = parallelize_plan(model, mesh.size())
        parallelize_module(model, mesh, plan)
        self._pending, self._ranks = 0, mesh.size()
        for name, style in plan.items():
            count = self._count_rows if isinstance(style, RowwiseParallel) else self._count_columns
            model.get_submodule(name).register_forward_hook(count)

    def _count_rows(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Row-wise layers all-reduce their outputs."""
        if layer.training:
            self._pending += output.numel() * output.element_size()

    def _count_columns(self, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Column-wise layers all-reduce the gradient of their inputs; unpaired ones also gather their outputs."""
        if layer.training:
            gathered = output.shape[-1] == layer.out_features
            self._pending += inputs[0].numel() * inputs[0].element_size() if inputs[0].requires_grad else 0
            self._pending += output.numel() * output.element_size() // self._ranks if gathered else 0

    def bytes_per_backward(self, synchronised: bool) -> int:
        """Outputs and gradients of the sharded layers for the batch."""
        sent, self._pending = self._pending, 0
        return sent

    def check_supported(self, trainer: pl.Trainer) -> None:
        super().check_supported(trainer)
        if trainer.gradient_clip_val:
            raise UserError(
                "trainer.gradient_clip_val: torch cannot compute a norm over sharded and plain tensors together; "
                "leave it null with strategy=tensor_parallel, or use strategy=fsdp2"
            )


# they act on each unit separately
_ELEMENTWISE = (*ACTIVATIONS.values(), nn.Dropout, nn.Identity)


def parallelize_plan(model: nn.Module, ranks: int) -> dict[str, ParallelStyle]:
    """Plan for ``parallelize_module``: the names of `model`'s linear layers and how each is sharded over `ranks`.

    Of two layers with only elementwise functions between them, the first is sharded by outputs and the second by inputs,
    which needs one all-reduce per direction (Shoeybi et al. 2019, section 3). Such pairs are found in `MLP`,
    ``Sequential`` and torch's encoder layers. Other layers are sharded by outputs, which are gathered at once. Layers
    with fewer units than ranks and torch's fused attention, which does not call its projection, are not sharded.

    Raises UserError if no layer can be sharded.
    """
    plan: dict[str, ParallelStyle] = {}
    attention = tuple(f"{name}." for name, m in model.named_modules() if isinstance(m, nn.MultiheadAttention))
    large = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features >= ranks]
    for first, second in linear_pairs(model):
        if first in large:
            plan |= {first: ColwiseParallel(), second: RowwiseParallel()}
    for name in large:
        if name not in plan and not name.startswith(attention):
            plan[name] = ColwiseParallel(output_layouts=Replicate())
    if not plan:
        raise UserError(
            f"strategy=tensor_parallel: {type(model).__name__} has no linear layer with at least {ranks} outputs to shard; "
            "use strategy=fsdp2 or strategy=ddp"
        )
    return plan


def linear_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Names of linear layers and of the one that follows with only elementwise functions between them."""
    found: list[tuple[str, str]] = []
    for name, module in model.named_modules():
        here = f"{name}." if name else ""
        if isinstance(module, MLP) and not module.residual:
            chain = [f"{here}hidden.{i}" for i in range(len(module.hidden))] + [f"{here}head"]
            found += list(zip(chain[::2], chain[1::2], strict=False))
        elif isinstance(module, nn.TransformerEncoderLayer):
            found.append((f"{here}linear1", f"{here}linear2"))
        elif isinstance(module, nn.Sequential):
            found += [(f"{here}{a}", f"{here}{b}") for a, b in _pairs_in_sequence(list(module))]
    return found


def _pairs_in_sequence(layers: Sequence[nn.Module]) -> list[tuple[int, int]]:
    """Positions of paired linear layers in a sequence; each layer is in one pair at most."""
    found, first = [], None
    for position, layer in enumerate(layers):
        if isinstance(layer, nn.Linear):
            if first is not None:
                found.append((first, position))
            first = position if first is None else None
        elif not isinstance(layer, _ELEMENTWISE):
            first = None
    return found
