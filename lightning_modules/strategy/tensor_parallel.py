"""Tensor parallelism: linear layers cut over the ranks, which see the same samples."""

from typing import Any

import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from lightning_modules.config.errors import UserError
from lightning_modules.strategy.model_parallel import ModelParallel
from lightning_modules.strategy.tensor_parallel_plan import is_rowwise, parallelize_plan


class TensorParallel(ModelParallel):
    """Linear layers cut over the ranks, by columns and by rows; all ranks see the same samples.

    Shoeybi et al. 2019, "Megatron-LM", section 3; torch's ``parallelize_module`` with the plan of `tensor_plan`.
    Equal to one process that has the whole model, but for dropout between two cut layers: there the ranks draw the
    same mask for different units.
    """

    def shard(self, model: nn.Module, mesh: DeviceMesh) -> None:
        from torch.distributed.tensor.parallel import parallelize_module

        torch.backends.mha.set_fastpath_enabled(False)  # torch's fused encoder layer takes no weights that are cut
        plan = parallelize_plan(model, mesh.size())
        parallelize_module(model, mesh, plan)
        self._pending, self._ranks = 0, mesh.size()
        for name, style in plan.items():
            model.get_submodule(name).register_forward_hook(
                self._count_rows if is_rowwise(style) else self._count_columns
            )

    def _count_rows(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """A sum over the ranks of what comes out."""
        if layer.training:
            self._pending += output.numel() * output.element_size()

    def _count_columns(self, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """A sum over the ranks of the gradient of what goes in; what comes out is gathered, where nobody cuts on."""
        if layer.training:
            gathered = output.shape[-1] == layer.out_features
            self._pending += inputs[0].numel() * inputs[0].element_size() if inputs[0].requires_grad else 0
            self._pending += output.numel() * output.element_size() // self._ranks if gathered else 0

    def bytes_per_backward(self, synchronised: bool) -> int:
        """Outputs and gradients of the cut layers' units, for each sample of the batch."""
        sent, self._pending = self._pending, 0
        return sent

    def check_supported(self, trainer: Any) -> None:
        super().check_supported(trainer)
        if trainer.gradient_clip_val:
            raise UserError(
                "trainer.gradient_clip_val: torch takes no norm over cut and whole tensors together; "
                "leave it null with strategy=tensor_parallel, or use strategy=fsdp2"
            )

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """In training and validation one share for all ranks; tested is the whole model, on a share for each."""
        if self._task is not None and self._task.trainer.state.fn == TrainerFn.FITTING:
            return {"num_replicas": 1, "rank": 0}
        return super().distributed_sampler_kwargs
