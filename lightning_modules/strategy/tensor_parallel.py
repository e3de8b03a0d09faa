"""Tensor parallelism: linear layers sharded over the ranks, which all see the same samples."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel

from lightning_modules.config.errors import UserError
from lightning_modules.model.mlp import MLP
from lightning_modules.strategy.model_parallel import ModelParallel


class TensorParallel(ModelParallel):
    """Linear layers sharded over the ranks, column-wise and row-wise; all ranks see the same samples.

    Shoeybi et al. 2019, "Megatron-LM", section 3; torch's ``parallelize_module`` with the plan of `parallelize_plan`.
    Equal to one process with the full model, except for dropout between two sharded layers, where the ranks draw the
    same mask for different units.
    """

    splits_samples = False

    def shard(self, model: nn.Module, mesh: DeviceMesh) -> None:
        from torch.distributed.tensor.parallel import parallelize_module

        torch.backends.mha.set_fastpath_enabled(False)  # torch's fused encoder layer does not support sharded weights
        plan = parallelize_plan(model, mesh.size())
        parallelize_module(model, mesh, plan)
        self._pending, self._ranks = 0, mesh.size()
        for name, style in plan.items():
            model.get_submodule(name).register_forward_hook(
                self._count_rows if is_rowwise(style) else self._count_columns
            )

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

    def check_supported(self, trainer: Any) -> None:
        super().check_supported(trainer)
        if trainer.gradient_clip_val:
            raise UserError(
                "trainer.gradient_clip_val: torch cannot compute a norm over sharded and plain tensors together; "
                "leave it null with strategy=tensor_parallel, or use strategy=fsdp2"
            )


_ELEMENTWISE = (
    nn.ReLU,
    nn.GELU,
    nn.SiLU,
    nn.ELU,
    nn.Tanh,
    nn.Sigmoid,
    nn.Dropout,
    nn.Identity,
)  # act on each unit separately
_FUSED_ATTENTION = (nn.MultiheadAttention,)  # uses the weights of its projection without calling the layer


def parallelize_plan(model: nn.Module, ranks: int) -> dict[str, ParallelStyle]:
    """Plan for ``parallelize_module``: the names of `model`'s linear layers and how each is sharded over `ranks`.

    Of two layers with only elementwise functions between them, the first is sharded by outputs and the second by inputs,
    which needs one all-reduce per direction (Shoeybi et al. 2019, section 3). Such pairs are found in `MLP`,
    ``Sequential`` and torch's encoder layers. Other layers are sharded by outputs, which are gathered at once. Layers
    with fewer units than ranks and torch's fused attention are not sharded.

    Raises:
        UserError: no layer can be sharded.
    """
    plan: dict[str, ParallelStyle] = {}
    fused = [name for name, module in model.named_modules() if isinstance(module, _FUSED_ATTENTION)]
    for first, second in linear_pairs(model):
        if _has_enough_outputs(model, first, ranks):
            plan |= {first: ColwiseParallel(), second: RowwiseParallel()}
    for name, module in model.named_modules():
        single = isinstance(module, nn.Linear) and name not in plan and _has_enough_outputs(model, name, ranks)
        if single and not any(name.startswith(f"{attention}.") for attention in fused):
            plan[name] = ColwiseParallel(output_layouts=Replicate())
    if not plan:
        raise UserError(
            f"strategy=tensor_parallel: {type(model).__name__} has no linear layer with at least {ranks} outputs to shard; "
            "use strategy=fsdp2 or strategy=ddp"
        )
    return plan


def is_rowwise(style: ParallelStyle) -> bool:
    """Whether a layer is sharded by its inputs."""
    return isinstance(style, RowwiseParallel)


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
    found, open_at = [], -1
    for position, layer in enumerate(layers):
        if isinstance(layer, nn.Linear):
            if open_at >= 0:
                found.append((open_at, position))
                open_at = -1
            else:
                open_at = position
        elif not isinstance(layer, _ELEMENTWISE):
            open_at = -1
    return found


def _has_enough_outputs(model: nn.Module, name: str, ranks: int) -> bool:
    layer = model.get_submodule(name)
    return isinstance(layer, nn.Linear) and layer.out_features >= ranks
