"""Distributed data parallel (gloo on CPU, NCCL on GPU) whose ranks are compared. Longer than 200 lines: it is one class."""

import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from annotated_types import Gt
from pytorch_lightning.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lightning_modules.compat.lightning import (
    ExtensibleDDP,
    Launcher,
    has_combined_loader,
    repeat_no_sample,
    skip_sigterm_broadcast,
)
from lightning_modules.compat.torch import StateDict, ddp_timing, sample_ddp_timing, sends_gradients
from lightning_modules.config.bounds import Positive, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.strategy.comm_hooks import CommHook, gather_on_rank_zero
from lightning_modules.strategy.comm_stats import CommStats
from lightning_modules.strategy.launch.agreement import (
    ComparedBatches,
    is_divided,
    verify_equal_batch_counts,
    verify_ranks_agree,
)
from lightning_modules.strategy.launch.environment import available_cores, num_threads
from lightning_modules.strategy.launch.launchers import ForkLauncher, SubprocessLauncher
from lightning_modules.strategy.launch.rank_status import register_process
from lightning_modules.strategy.launch.rendezvous import require_free_port
from lightning_modules.strategy.sync_batch_norm import SyncBatchNormLayers

_TIMING_SAMPLE_RATE = 20  # torch times every 20th backward pass


class CheckedDDP(CommStats, ExtensibleDDP):
    """Lightning's DDP strategy with a check that all ranks agree and with communication metrics.

    Args:
        start_method: ``fork`` (0.3 s instead of 10 s) or ``popen``, which starts the program again for each rank. ``auto``
            forks on Linux without CUDA: neither CUDA nor macOS allows it.
        timeout_s: seconds until a rank that waits for another one gives up.
        threads: of each process on CPU; None divides the available cores equally. Set in the processes, since OpenMP's
            threads do not survive a fork.
        slow_ratio: a warning names a rank that needs this many times as long for a batch as the others.
        hook: how gradients are averaged, see `CommHook`; None averages them uncompressed.
        others: see ``torch.nn.parallel.DistributedDataParallel``.

    Raises UserError on all ranks if their number, config, data or initial weights differ.
    """

    averages_in_backward_only = True  # a step needs nothing else of this strategy
    syncs_buffers = True  # whether validation uses the buffers of rank 0, as DDP does
    config: Mapping[str, object] | None = None  # compared between ranks

    @bounded
    def __init__(
        self,
        start_method: Literal["auto", "fork", "popen"] = "auto",
        timeout_s: Positive = 1800,
        find_unused_parameters: bool = False,
        static_graph: bool = False,
        gradient_as_bucket_view: bool = False,
        broadcast_buffers: bool = True,
        threads: int | None = None,
        hook: CommHook | None = None,
        slow_ratio: Annotated[float, Gt(1)] = 2.0,
    ) -> None:
        if start_method == "auto":
            start_method = "fork" if sys.platform == "linux" and not torch.cuda.is_available() else "popen"
        super().__init__(
            start_method=start_method,
            timeout=timedelta(seconds=timeout_s),
            find_unused_parameters=find_unused_parameters,
            static_graph=static_graph,
            gradient_as_bucket_view=gradient_as_bucket_view,
            broadcast_buffers=broadcast_buffers,
        )
        self._threads = threads
        self.hook = hook
        self.slow_ratio = slow_ratio
        self._hook_states: list[StateDict] = []  # of all ranks, from the checkpoint
        self._start_step = 0
        self._num_syncs = self._num_backwards = 0
        self._gradient_bytes = self._buffer_bytes = self._buffers_due = 0

    def choose_launcher(self, start_method: str) -> Launcher:
        require_free_port(self)
        return SubprocessLauncher(self) if start_method == "popen" else ForkLauncher(self, start_method)  # type: ignore[arg-type]

    # --- setup -----------------------------------------------------------------------------------------------
    def setup(self, trainer: pl.Trainer) -> None:
        if self.root_device.type == "cpu":
            torch.set_num_threads(self._threads or num_threads(len(available_cores()) // self.num_processes))
            if self.layer_sync is not None:  # trainer.sync_batchnorm
                self.layer_sync = SyncBatchNormLayers()
        register_process(self.global_rank)
        skip_sigterm_broadcast(trainer)
        fingerprint = getattr(getattr(trainer, "datamodule", None), "fingerprint", None)
        self.check_ranks_agree(str(fingerprint()) if fingerprint else "")
        super().setup(trainer)

    def check_ranks_agree(self, data: str = "") -> None:
        """Compare number, config, data and weights of the ranks."""
        if dist.is_initialized():
            assert self.model is not None
            verify_ranks_agree(self.model, self.world_size, self.config, data)
        elif self.world_size > 1:
            raise UserError(f"trainer.devices: expected {self.world_size} processes, but this one has no process group")

    def process_dataloader(self, dataloader: object) -> object:
        """When training starts, check that all ranks have the same number of batches; compare batches not known to differ."""
        trainer = self.lightning_module.trainer if self.lightning_module else None
        if trainer is None or trainer.predicting:
            return super().process_dataloader(dataloader)
        if trainer.training and not has_combined_loader(trainer):
            verify_equal_batch_counts(dataloader, trainer.limit_train_batches)
        elif not trainer.training:
            repeat_no_sample(dataloader)
        share = trainer.distributed_sampler_kwargs or {}
        if share.get("num_replicas", 1) > 1 and not is_divided(dataloader, share):
            dataloader = ComparedBatches(dataloader, self.root_device if trainer.training else None)
        return super().process_dataloader(dataloader)

    def validation_step(self, *args: object, **kwargs: object) -> STEP_OUTPUT:
        """Call the module itself: DDP's forward would broadcast buffers, and ranks may have unequal numbers of batches."""
        assert self.lightning_module is not None
        with self.precision_plugin.val_step_context():
            return self.lightning_module.validation_step(*args, **kwargs)

    # --- gradient averaging ----------------------------------------------------------------------------------
    def wrap_model(self, model: nn.Module) -> DistributedDataParallel:
        wrapped = super().wrap_model(model)
        sample_ddp_timing(wrapped, _TIMING_SAMPLE_RATE)
        return wrapped

    def register_hooks(self) -> None:
        """Register the hook on CPU too, where Lightning does not."""
        model = self._ddp()
        assert model is not None
        self._num_syncs = self._num_backwards = 0
        self._gradient_bytes = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        self._buffer_bytes = sum(b.numel() * b.element_size() for b in _synced_buffers(model))
        if self.hook is not None:
            self.hook.load_state_dicts(self._hook_states, self.global_rank, self.world_size)
            self.hook.attach(model, self.bytes_counter, self._start_step)
            self._hook_states, self._start_step = [], 0

    def _ddp(self) -> DistributedDataParallel | None:
        return self.model if isinstance(self.model, DistributedDataParallel) else None

    def training_step(self, *args: object, **kwargs: object) -> STEP_OUTPUT:
        self._buffers_due = self._buffer_bytes  # DDP sends them once per call, however many steps it takes
        return super().training_step(*args, **kwargs)

    def post_backward(self, closure_loss: Tensor) -> None:
        super().post_backward(closure_loss)
        model = self._ddp()
        self._num_backwards += 1
        if model is not None and sends_gradients(model):  # False while gradients are accumulated
            self._num_syncs += 1
            self.bytes_counter.sent += self._buffers_due + (0 if self.hook else self._gradient_bytes)
            self._buffers_due = 0

    def on_validation_start(self) -> None:
        """Validate what is saved: the buffers of rank 0, which DDP broadcasts before the next training step anyway."""
        super().on_validation_start()
        model = self._ddp()
        if model is not None and self.syncs_buffers:
            for buffer in _synced_buffers(model):
                dist.broadcast(buffer, src=0)

    def comm_seconds(self) -> tuple[float, float] | None:
        """From the timer of DDP's reducer, which samples backward passes."""
        model = self._ddp()
        if model is None or not self._num_syncs:
            return None
        clock = ddp_timing(model)
        share = self._num_syncs / self._num_backwards * 1e-9
        busy = clock.get("avg_backward_comm_time", 0) * share
        return busy, max(0.0, busy - clock.get("avg_backward_compute_comm_overlap_time", 0) * share)

    # --- checkpoints -----------------------------------------------------------------------------------------
    def save_checkpoint(self, checkpoint: StateDict, filepath: str | Path, storage_options: object = None) -> None:
        """Write the checkpoint, with the hook states of all ranks under ``gradient_hook``."""
        if self.hook is not None and "optimizer_states" in checkpoint:  # not for weights-only checkpoints
            mine = self.hook.state_dict()
            if mine and (states := gather_on_rank_zero(mine)) is not None:
                checkpoint["gradient_hook"] = states
        super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> StateDict:
        checkpoint = super().load_checkpoint(checkpoint_path, weights_only)
        self._hook_states = checkpoint.pop("gradient_hook", [])
        self._start_step = int(checkpoint.get("global_step", 0))
        return checkpoint


def _synced_buffers(model: DistributedDataParallel) -> list[Tensor]:
    """Buffers that DDP broadcasts from rank 0 before a forward pass."""
    return list(model.module.buffers()) if model.broadcast_buffers else []
