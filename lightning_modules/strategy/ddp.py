"""Distributed data parallel: gloo on CPU, NCCL on GPU, with a check that all ranks are one job."""

from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy

from lightning_modules.errors import UserError
from lightning_modules.strategy.cores import allowed_cores


class CheckedDDP(DDPStrategy):
    """Lightning's DDP, which refuses to train when the processes are not one job.

    Args:
        start_method: ``auto`` forks on CPU (a third of a second instead of ten) and starts new processes on GPU, where
            CUDA forbids a fork; ``fork``, ``spawn`` and ``popen`` as in Lightning.
        timeout_s: seconds until a rank that waits for another gives up.
        threads: of each process on CPU; None shares the allowed cores out. Set in the processes, not before: OpenMP's
            threads do not live through a fork.
        others: as in ``torch.nn.parallel.DistributedDataParallel``.

    Raises UserError on all ranks where ``all_reduce(1) != world_size`` or where the initial parameters differ.
    """

    def __init__(
        self,
        start_method: Literal["auto", "fork", "spawn", "popen"] = "auto",
        timeout_s: float = 1800,
        find_unused_parameters: bool = False,
        static_graph: bool = False,
        gradient_as_bucket_view: bool = False,
        broadcast_buffers: bool = True,
        threads: int | None = None,
    ) -> None:
        if start_method == "auto":
            start_method = "popen" if torch.cuda.is_available() else "fork"
        super().__init__(
            start_method=start_method,
            timeout=timedelta(seconds=timeout_s),
            find_unused_parameters=find_unused_parameters,
            static_graph=static_graph,
            gradient_as_bucket_view=gradient_as_bucket_view,
            broadcast_buffers=broadcast_buffers,
        )

        self._threads = threads

    def _configure_launcher(self) -> None:
        if self.cluster_environment is not None and self.cluster_environment.creates_processes_externally:
            self._start_method = "popen"  # the ranks are there: one for each task of a Slurm job
        super()._configure_launcher()

    def setup(self, trainer: Any) -> None:
        if self.root_device.type == "cpu":
            torch.set_num_threads(self._threads or max(1, len(allowed_cores()) // self.num_processes))
        self.check_one_job()
        super().setup(trainer)

    def check_one_job(self) -> None:
        """Compare the number of processes and a fingerprint of the parameters over all ranks."""
        if not dist.is_initialized():
            if self.world_size > 1:
                raise UserError(f"trainer.devices: {self.world_size} processes were asked for, but this one is alone")
            return
        assert self.model is not None
        total = sum(float(p.detach().double().sum()) for p in self.model.parameters())
        mine = torch.tensor([1.0, total, -total], dtype=torch.float64, device=self.root_device)
        count = mine[:1].clone()
        dist.all_reduce(count)
        dist.all_reduce(mine, op=dist.ReduceOp.MAX)
        if int(count) != self.world_size:
            raise UserError(f"trainer.devices: {int(count)} processes answered, but {self.world_size} were asked for")
        if float(mine[1] + mine[2]) != 0.0:
            raise UserError(
                "The ranks start from different parameters: do all processes have the same config and seed?"
            )
