"""Gradual pruning during training on a cubic sparsity schedule, by magnitude or by movement."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_modules.compression.pruning.pruning_stage import PruningStage
from lightning_modules.compression.pruning.saliency import Masks, exclude_pruned
from lightning_modules.compression.stage import StageContext
from lightning_modules.config.bounds import Count, Fraction, bounded
from lightning_modules.config.errors import UserError


class Gradual(PruningStage):
    """Raises sparsity by the cubic schedule of Zhu and Gupta 2017 (`cubic_sparsity`); the rest of the fit fine-tunes.

    A pruned weight stays pruned. With ``control=reinit`` a second fit of `epochs` trains reinitialized weights under the
    masks found.

    Args:
        sparsity: the final sparsity; see `PruningStage` for the other arguments. The fit is the run's own (``when=fit``)
            or has `epochs`.
        initial_sparsity: in [0, sparsity].
        every: number of steps between two updates of the masks.
        start_fraction, end_fraction: where the schedule starts and ends, as fractions of the fit's steps.
    """

    saved: ClassVar = {**PruningStage.saved, "settled": "schedule_done"}

    @bounded
    def __init__(
        self,
        sparsity: float,
        initial_sparsity: float = 0.0,
        every: Count = 20,
        start_fraction: Fraction = 0.0,
        end_fraction: Fraction = 0.7,
        **prune: Any,
    ) -> None:
        super().__init__(sparsity, **prune)
        if self.when == "after" and not self.epochs:
            raise UserError("compression: a gradual schedule prunes during training; set epochs, or when=fit")
        if not 0 <= initial_sparsity <= sparsity:
            raise UserError(f"compression: initial_sparsity={initial_sparsity}: expected a number in [0, sparsity]")
        if start_fraction >= end_fraction:
            raise UserError(
                f"compression: start_fraction={start_fraction}, end_fraction={end_fraction}: "
                "expected start_fraction < end_fraction"
            )
        if self.control == "reinit" and self.when != "after":
            raise UserError("compression: control=reinit needs a second fit after the schedule; use when=after")
        self.initial_sparsity, self.every = initial_sparsity, every
        self.start_fraction, self.end_fraction = start_fraction, end_fraction
        self.rounds = 2 if self.control == "reinit" else 1
        self.schedule_done = False

    def due_sparsity(self, taken: int, total: int) -> float | None:
        """The new sparsity after `taken` of `total` steps; None: the masks do not change."""
        end = max(1, round(self.end_fraction * total))
        start = min(round(self.start_fraction * total), end - 1)
        if not start <= taken <= end or ((taken - start) % self.every and taken != end):
            return None
        return cubic_sparsity((taken - start) / (end - start), self.initial_sparsity, self.sparsity)

    def begin(self, context: StageContext) -> None:
        super().begin(context)
        self.schedule_done = False
        if self.start_fraction == 0 and self.initial_sparsity:
            self.prune(context, self.initial_sparsity)

    def after_step(self, context: StageContext, step: int, total: int) -> None:
        if self.schedule_done:
            return
        sparsity = self.due_sparsity(step + 1, total)
        if sparsity is not None:
            self.prune(context, sparsity)

    def after_round(self, context: StageContext, round: int) -> None:
        self.schedule_done = True
        self.reinitialize(context)


class Movement(Gradual):
    """Keeps the weights that training moves away from zero, on the schedule of `Gradual`: "hard" movement pruning.

    Scores are -sum of w g over the fit's steps (Sanh et al. 2020, equation 5). As in the paper a pruned weight may come
    back: its value is remembered, its score keeps accumulating with that value, and it returns with it. Masks of
    earlier stages stay.
    """

    saved: ClassVar = {**Gradual.saved, "moved": "movement_scores", "asleep": "pruned_values"}

    def __init__(self, sparsity: float, **gradual: Any) -> None:
        if gradual.get("criterion", "magnitude") != "magnitude":
            raise UserError(f"compression: criterion={gradual['criterion']}: movement pruning has its own criterion")
        super().__init__(sparsity, **gradual)
        self.criterion = "movement"
        self.movement_scores: dict[str, Tensor] = {}
        self.pruned_values: dict[str, Tensor] = {}  # 0 where a weight is not pruned
        self._weights_cache: tuple[nn.Module, dict[str, Tensor]] | None = None

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        super().check(model, example, num_outputs)
        frozen = [name for name, weight in self.weights(model).items() if not weight.requires_grad]
        if frozen:
            raise self.config_error(f"{frozen[0]} is frozen, but movement needs its gradient; add its layer to exclude")

    def begin(self, context: StageContext) -> None:
        self.movement_scores, self.pruned_values = {}, {}
        super().begin(context)

    @torch.no_grad()
    def before_step(self, context: StageContext, step: int, total: int) -> None:
        if self.schedule_done or self.control == "dense":
            return
        if self._weights_cache is None or self._weights_cache[0] is not context.model:
            self._weights_cache = context.model, self.weights(context.model)
        for name, weight in self._weights_cache[1].items():
            if weight.grad is None:
                continue
            pushed = self._unpruned_values(name, weight) * weight.grad
            self.movement_scores[name] = (
                self.movement_scores[name].to(weight.device) - pushed if name in self.movement_scores else -pushed
            )

    def _unpruned_values(self, name: str, weight: Tensor) -> Tensor:
        """The weight with the remembered values of its pruned entries."""
        return weight + self.pruned_values[name].to(weight.device) if name in self.pruned_values else weight.detach()

    def find_masks(self, context: StageContext, weights: Mapping[str, Tensor], sparsity: float) -> Masks:
        scores = {name: self.movement_scores.get(name, torch.zeros_like(w)).to(w.device) for name, w in weights.items()}
        return self.masks_of_highest(weights, exclude_pruned(scores, self.before), sparsity, self.before)

    @torch.no_grad()
    def set_masks(self, context: StageContext, masks: Masks) -> None:
        for name, weight in self.weights(context.model).items():
            old = context.state.masks.get(name)
            values = self._unpruned_values(name, weight if old is None else weight * old.to(weight.device))
            self.pruned_values[name] = values.masked_fill(masks[name], 0.0)
            weight.copy_(values)
        super().set_masks(context, masks)


def cubic_sparsity(progress: float, initial: float, final: float) -> float:
    """Sparsity at `progress` in [0, 1] of the schedule, which rises fast at first and slowly at the end.

    Zhu and Gupta 2017, "To prune, or not to prune", equation 1: ``s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3``.
    """
    return final + (initial - final) * (1 - min(max(progress, 0.0), 1.0)) ** 3
