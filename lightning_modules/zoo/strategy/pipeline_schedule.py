"""One batch through a pipeline, with the schedules of torch.distributed.pipelining."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_modules.config.errors import UserError

_MAX_CACHED_SCHEDULES = 8  # each has buffers for its shapes


@dataclass(frozen=True)
class StepResult:
    """Result of a forward and backward pass; equal on all ranks except for parameters and gradients.

    Args:
        outputs: of the full network [B, num_outputs].
        mean_loss: over the microbatches.
        parameters: trained parameters of this rank's part; `gradients` of `mean_loss` in the same order.
        sent: bytes sent, mean over the ranks.
    """

    outputs: Tensor
    mean_loss: float
    parameters: list[nn.Parameter]
    gradients: list[Tensor | None]
    sent: float

    def check_loss_is_mean(self, loss: float) -> None:
        """Raise UserError if `loss`, of the full batch, differs from the mean over microbatches."""
        tolerance = torch.finfo(self.outputs.dtype).eps ** 0.5 * max(abs(loss), abs(self.mean_loss), 1e-3)
        if abs(loss - self.mean_loss) > tolerance:
            raise UserError(
                f"task.loss: the loss of a batch ({loss:.6g}) is not the mean over its microbatches ({self.mean_loss:.6g}); "
                "use a loss that is a mean over samples, strategy.microbatches=1, or strategy=ddp"
            )


class PipelineExecutor:
    """Runs batches through the parts of all ranks. All ranks must make the same calls, with the same batch.

    Args:
        part: of this rank.
        microbatches: upper limit per batch.
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
        """Forward and backward pass of x [B, …] with `loss(outputs, target)`; does not change ``.grad``."""
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
        """Outputs [B, num_outputs] of the full network, without gradients."""
        with torch.no_grad():
            return self._run(x, None)[0]

    def _run(self, x: Tensor, target: Tensor | None) -> tuple[Tensor, list[Tensor], float]:
        pieces = num_microbatches(len(x), self.microbatches)
        # torch's stages have buffers of fixed shape; buffers made in inference mode cannot be written outside of it
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
        """Shape and dtype of the outputs, and the mean bytes sent per rank."""
        own = outputs.numel() * outputs.element_size() if outputs is not None else 0
        said: list[Any] = [None] * self.ranks
        mine = (None, None) if outputs is None else (outputs.shape, outputs.dtype)
        dist.all_gather_object(said, (*mine, pieces * self._bytes_per_microbatch + own))
        return said[-1][0], said[-1][1], sum(sent for _, _, sent in said) / self.ranks

    def _count(self, part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Bytes per microbatch: the output to the next rank, the gradient of the input to the previous one."""
        back = 0 if self._first or not torch.is_grad_enabled() else inputs[0].numel() * inputs[0].element_size()
        self._bytes_per_microbatch = back + (0 if self._last else output.numel() * output.element_size())


def num_microbatches(samples: int, microbatches: int) -> int:
    """The largest number of equal microbatches of a batch, at most `microbatches`."""
    return next(n for n in range(min(samples, microbatches), 0, -1) if samples % n == 0)


class _ContiguousGradient(torch.autograd.Function):
    """Identity on received activations; makes their gradient contiguous, so that it can be sent back."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0].contiguous()


class _KnownGradients(torch.autograd.Function):
    """A loss whose gradients are already computed."""

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
                "strategy=pipeline: a term computed from the outputs is added to the loss after its gradients were "
                "computed; use strategy=ddp"
            )
        return None, None, *(None if g is None else g * scale for g in ctx.done.gradients)


def attach_gradients(loss: Tensor, done: StepResult) -> tuple[Tensor, Tensor]:
    """`loss` and the outputs; backward from the loss adds the known gradients, scaled like the loss, to ``.grad``."""
    loss, outputs = _KnownGradients.apply(loss, done, *done.parameters)
    return loss, outputs
