"""Callback that re-applies masks, codebooks and grids after every optimizer step, and calls the stages of a fit."""

from collections.abc import Mapping, Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lightning_modules.compression.compressed_state import Codebook, CompressedState
from lightning_modules.compression.stage import Stage, StageContext, StateDict
from lightning_modules.config.errors import UserError
from lightning_modules.task.supervised import Supervised

_SYNC_EVERY = 100  # steps between two synchronizations of shared values, which differ by rounding only


class CompressionCallback(pl.Callback):
    """Calls the `stages` of a fit around every optimizer step, and enforces the compressed state after each.

    It uses hooks of the optimizer, since the fast loop takes many steps within one call from Lightning; with automatic
    optimization, gradients exist only in Lightning's own hook. Its state holds the compressed state and the step count,
    so a resumed fit continues exactly.
    """

    def __init__(self, context: StageContext, stages: Sequence[Stage]) -> None:
        self.context, self.stages = context, list(stages)
        self.step, self.total = 0, 0
        self._handles: list[RemovableHandle] = []
        self._factors: dict[str, tuple[Tensor, Tensor]] = {}  # by parameter: the mask, and it as numbers

    def state_dict(self) -> StateDict:
        return {"step": self.step, "form": self.context.state.plain_dict()}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self.step = int(state_dict["step"])
        self.context.state.replace(CompressedState.of(state_dict["form"]))

    # --- the fit ---------------------------------------------------------------------------------------------
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if isinstance(pl_module, Supervised):
            self.total = pl_module.planned_steps()[0]
            pl_module.extra_losses = [stage.loss for stage in self.stages if type(stage).loss is not Stage.loss]
        else:
            self.total = int(trainer.estimated_stepping_batches)
        self._move_to(pl_module.device)
        own = set(self.context.model.parameters())
        trained = [o for o in trainer.optimizers if any(own & set(group["params"]) for group in o.param_groups)]
        if not trained:
            raise UserError("compression: no optimizer of the task trains the network to compress")
        optimizer = getattr(trained[0], "optimizer", trained[0])  # Lightning's wrapper has no hooks
        self._handles = [optimizer.register_step_post_hook(lambda *_: self.after_step())]
        if not pl_module.automatic_optimization:  # else there are no gradients yet when the optimizer is called
            self._handles.append(optimizer.register_step_pre_hook(lambda *_: self.before_step()))

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if pl_module.automatic_optimization:
            self.before_step()

    def before_step(self) -> None:
        """Call the stages while gradients exist; then sum the gradients of entries that share a value."""
        for stage in self.stages:
            stage.before_step(self.context, self.step, self.total)
        state = self.context.state
        if state.codebooks:
            parameters = dict(self.context.model.named_parameters())
            for name, codebook in state.codebooks.items():
                sum_shared_gradients(parameters[name], codebook, state.masks.get(name))

    @torch.no_grad()
    def after_step(self) -> None:
        """Call the stages with the new weights, then restore shared values, grids and zeros."""
        state, parameters = self.context.state, dict(self.context.model.named_parameters())
        for stage in self.stages:
            stage.after_step(self.context, self.step, self.total)
        self.step += 1
        if state.codebooks and self.step % _SYNC_EVERY == 0:
            sync_shared_weights(parameters, state)
        for name, grid in state.grids.items():
            parameters[name].copy_(grid.values())
        for name, mask in state.masks.items():
            parameters[name].mul_(self._factor(name, mask, parameters[name]))

    def _factor(self, name: str, mask: Tensor, weight: Tensor) -> Tensor:
        """The mask in the weight's dtype, which multiplies ten times as fast; cached until the mask is replaced."""
        known = self._factors.get(name)
        if known is None or known[0] is not mask:
            known = self._factors[name] = (mask, mask.to(weight.device, weight.dtype))
        return known[1]

    def _move_to(self, device: torch.device) -> None:
        state = self.context.state
        state.masks = {name: mask.to(device) for name, mask in state.masks.items()}
        for codebook in state.codebooks.values():
            codebook.indices, codebook.centroids = codebook.indices.to(device), codebook.centroids.to(device)

    # --- before the weights are evaluated or saved -----------------------------------------------------------
    def settle(self) -> None:
        """Update the shared values from the weights, then apply the compressed state to the weights."""
        sync_shared_weights(dict(self.context.model.named_parameters()), self.context.state)
        self.context.state.apply(self.context.model)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self.settle()  # also for averaged weights, which another callback has just swapped in

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: StateDict) -> None:
        """Mask the saved weights: they may be an average over steps with other masks."""
        for name, mask in self.context.state.masks.items():
            key = f"{self.context.module}.{name}"
            tensor = checkpoint["state_dict"].get(key)
            if tensor is not None:
                checkpoint["state_dict"][key] = tensor * mask.to(tensor.device)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.settle()
        self._move_to(torch.device("cpu"))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if isinstance(pl_module, Supervised):
            pl_module.extra_losses = []


@torch.no_grad()
def sum_shared_gradients(parameter: Tensor, codebook: Codebook, mask: Tensor | None) -> None:
    """Set every entry's gradient to the sum over all entries with its centroid (Han et al. 2016, equation 3).

    With equal gradients and equal optimizer state all of them move alike, so any optimizer trains the shared value.
    """
    if parameter.grad is None:
        return
    grad = parameter.grad if mask is None else parameter.grad * mask
    index, table = codebook.indices.long(), torch.zeros_like(codebook.centroids, dtype=grad.dtype)
    if table.ndim == 1:
        table.index_add_(0, index.flatten(), grad.flatten())
        shared = table[index]
    else:
        table.scatter_add_(1, index.flatten(1), grad.flatten(1))
        shared = table.gather(1, index.flatten(1)).view(index.shape)
    parameter.grad.copy_(shared if mask is None else shared * mask)


@torch.no_grad()
def sync_shared_weights(parameters: Mapping[str, Tensor], state: CompressedState) -> None:
    """Set each centroid to the value of its entries and each entry to its centroid, which may differ by rounding."""
    for name, codebook in state.codebooks.items():
        weight, index = parameters[name].detach(), codebook.indices.long()
        mask = state.masks.get(name)
        kept = torch.ones_like(index, dtype=torch.bool) if mask is None else mask
        if codebook.centroids.ndim == 2:
            offset = torch.arange(len(index), device=index.device).mul_(codebook.centroids.shape[1])
            index = index + offset.view(-1, *(1,) * (index.ndim - 1))
        flat, values = codebook.centroids.flatten(), weight[kept].to(codebook.centroids.dtype)
        # The maximum, since it is the same on all ranks.
        flat = flat.scatter_reduce(0, index[kept], values, "amax", include_self=False)
        codebook.centroids = flat.view_as(codebook.centroids)
        shared = codebook.values().to(weight.dtype)
        parameters[name].copy_(shared if mask is None else shared * mask)
