"""One pass of a batch through a pipeline, by the schedules of torch.distributed.pipelining."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_modules.config.errors import UserError

_MAX_CACHED_SCHEDULES = 8  # schedules, each with buffers for its shapes


@dataclass(frozen=True)
class StepResult:
    """A batch that has been forward and backward, the same on all ranks but for the gradients.

    Args:
        outputs: of the whole network [B, num_outputs].
        mean_loss: of the microbatches.
        parameters: of this rank's part that are trained, and their `gradients`: of `mean_loss`.
        sent: bytes that were sent, mean over the ranks.
    """

    outputs: Tensor
    mean_loss: float
    parameters: list[nn.Parameter]
    gradients: list[Tensor | None]
    sent: float

    def check_loss_is_mean(self, loss: float) -> None:
        """Raise UserError where `loss`, of the whole batch, is another than the mean, whose gradients these are."""
        tolerance = torch.finfo(self.outputs.dtype).eps ** 0.5 * max(abs(loss), abs(self.mean_loss), 1e-3)
        if abs(loss - self.mean_loss) > tolerance:
            raise UserError(
                f"task.loss: the loss of a batch ({loss:.6g}) is not the mean over its microbatches ({self.mean_loss:.6g}); "
                "give a loss that is a mean over samples, strategy.microbatches=1, or strategy=ddp"
            )


class PipelineExecutor:
    """Sends batches through the parts of all ranks. All must call it alike, with the same batch.

    Args:
        part: this rank's.
        microbatches: at most so many.
        schedule: ``gpipe`` or ``1f1b``.
    """

    def __init__(
        self, part: nn.Module, rank: int, ranks: int, device: torch.device, microbatches: int, schedule: str
    ) -> None:
        self.part, self.rank, self.ranks, self.device = part, rank, ranks, device
        self.microbatches, self.schedule = microbatches, schedule
        self._first, self._last = rank == 0, rank == ranks - 1
        self._schedules: dict[Any, tuple[Any, torch.Size, torch.dtype, float]] = {}
        self._loss: Callable[[Tensor, Tensor], Tensor] | None = None
        self._bytes_per_microbatch = 0
        part.register_forward_hook(self._count)
        if not self._first:
            part.register_forward_pre_hook(lambda _, inputs: _ContiguousGradient.apply(*inputs))

    def step(self, x: Tensor, target: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> StepResult:
        """Forward and backward of x [B, …] with `loss` of (outputs, target); leaves ``.grad`` as it was."""
        self._loss = loss
        parameters = [p for p in self.part.parameters() if p.requires_grad]
        before = [p.grad for p in parameters]
        for p in parameters:
            p.grad = None
        try:
            outputs, losses, sent = self._run(x, target)
            gradients = [p.grad for p in parameters]
        finally:
            for p, gradient in zip(parameters, before, strict=True):
                p.grad = gradient
        mean = torch.stack(losses).sum() if losses else torch.zeros((), device=self.device)
        mean = mean.detach().double()
        dist.broadcast(mean, src=self.ranks - 1)
        return StepResult(outputs, float(mean), parameters, gradients, sent)

    def outputs(self, x: Tensor) -> Tensor:
        """The outputs [B, num_outputs] of the whole network, without gradients."""
        with torch.no_grad():
            return self._run(x, None)[0]

    def _run(self, x: Tensor, target: Tensor | None) -> tuple[Tensor, list[Tensor], float]:
        pieces = num_microbatches(len(x), self.microbatches)
        # torch's stages keep buffers of one shape, which in inference mode nothing else may write
        key = (pieces, x.shape, x.dtype, target is not None, torch.is_inference_mode_enabled())
        known = self._schedules.get(key)
        schedule = known[0] if known else self._new(pieces, target is not None)
        losses: list[Tensor] = []
        given = (x,) if self._first else ()
        told = {"target": target, "losses": losses} if self._last and target is not None else {}
        merged = schedule.step(*given, **told)
        if known is None:
            known = self._schedules[key] = (schedule, *self._gather_output_info(merged, pieces))
            if len(self._schedules) > _MAX_CACHED_SCHEDULES:
                del self._schedules[next(iter(self._schedules))]
        _, shape, dtype, sent = known
        outputs = merged.detach().contiguous() if self._last else torch.empty(shape, dtype=dtype, device=self.device)
        dist.broadcast(outputs, src=self.ranks - 1)
        return outputs, losses, sent

    def _new(self, pieces: int, training: bool) -> Any:
        from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

        stage = PipelineStage(self.part, self.rank, self.ranks, self.device)
        early = self.schedule == "1f1b" and training and pieces >= self.ranks
        kind = Schedule1F1B if early else ScheduleGPipe

        def share(outputs: Tensor, target: Tensor) -> Tensor:
            assert self._loss is not None
            return self._loss(outputs, target) / pieces

        return kind(stage, pieces, loss_fn=share if training else None, scale_grads=False)

    def _gather_output_info(self, outputs: Tensor | None, pieces: int) -> tuple[torch.Size, torch.dtype, float]:
        """Shape and type of the outputs, and the bytes that a rank has sent on average."""
        own = outputs.numel() * outputs.element_size() if outputs is not None else 0
        said: list[Any] = [None] * self.ranks
        mine = (None, None) if outputs is None else (outputs.shape, outputs.dtype)
        dist.all_gather_object(said, (*mine, pieces * self._bytes_per_microbatch + own))
        return said[-1][0], said[-1][1], sum(sent for _, _, sent in said) / self.ranks

    def _count(self, part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """What a microbatch sends: the output to the next rank, the gradient of the input to the one before."""
        back = 0 if self._first or not torch.is_grad_enabled() else inputs[0].numel() * inputs[0].element_size()
        self._bytes_per_microbatch = back + (0 if self._last else output.numel() * output.element_size())


def num_microbatches(samples: int, microbatches: int) -> int:
    """The largest number of equal pieces of a batch that is no more than `microbatches`."""
    return next(n for n in range(min(samples, microbatches), 0, -1) if samples % n == 0)


class _ContiguousGradient(torch.autograd.Function):
    """What the rank before has sent; its gradient lies in memory as it can be sent back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].contiguous()


class _KnownGradients(torch.autograd.Function):
    """A loss whose gradients are known."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, done: StepResult, *parameters: nn.Parameter) -> tuple[Tensor, Tensor]:
        ctx.done = done
        ctx.set_materialize_grads(False)
        return loss.clone(), done.outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        scale, of_outputs = gradients
        if of_outputs is not None:
            raise UserError(
                "strategy=pipeline: something adds to the loss what it computes from the outputs, whose gradients have been "
                "taken by then; use strategy=ddp"
            )
        return None, None, *(None if g is None else g * scale for g in ctx.done.gradients)


def attach_gradients(loss: Tensor, done: StepResult) -> tuple[Tensor, Tensor]:
    """`loss` and the outputs; backward from the loss adds the gradients that are known, scaled as it is, to ``.grad``."""
    loss, outputs = _KnownGradients.apply(loss, done, *done.parameters)
    return loss, outputs
