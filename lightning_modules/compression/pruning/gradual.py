"""Little by little while training: the cubic schedule, by magnitude or by movement."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.compression.pruning.masks import Masks, pruned_stay
from lightning_modules.compression.pruning.prune import Prune
from lightning_modules.compression.pruning.schedule import cubic
from lightning_modules.compression.stage import Work
from lightning_modules.errors import UserError


class Gradual(Prune):
    """Sparsity follows the cubic of Zhu and Gupta 2017 (`schedule.cubic`), then the rest of the fit is fine-tuning.

    A weight that was pruned stays so. With ``control=reinit`` a second fit of `epochs` trains the masks found, on weights
    drawn anew.

    Args:
        sparsity: the final one, as `Prune`, with the other arguments; the fit is the run's own (``when=fit``) or has
            `epochs`.
        initial_sparsity: in [0, sparsity].
        every: steps from one renewal of the masks to the next.
        start_fraction, end_fraction: of the fit's steps, between which the schedule runs.
    """

    def __init__(
        self,
        sparsity: float,
        initial_sparsity: float = 0.0,
        every: int = 20,
        start_fraction: float = 0.0,
        end_fraction: float = 0.7,
        **prune: Any,
    ) -> None:
        super().__init__(sparsity, **prune)
        if self.when == "after" and not self.epochs:
            raise UserError("compression: a gradual schedule prunes while training: it needs epochs, or when=fit")
        if not 0 <= initial_sparsity <= sparsity:
            raise UserError(f"compression: initial_sparsity={initial_sparsity}: it must lie in [0, sparsity]")
        if every < 1:
            raise UserError(f"compression: every={every}: at least one step")
        if not 0 <= start_fraction < end_fraction <= 1:
            raise UserError(
                f"compression: start_fraction={start_fraction}, end_fraction={end_fraction}: 0 <= start < end <= 1"
            )
        if self.control == "reinit" and self.when != "after":
            raise UserError("compression: control=reinit takes a fit of its own after the schedule: when=after")
        self.initial_sparsity, self.every = initial_sparsity, every
        self.start_fraction, self.end_fraction = start_fraction, end_fraction
        self.rounds = 2 if self.control == "reinit" else 1
        self.settled = False  # the schedule is over

    def due(self, taken: int, total: int) -> float | None:
        """The sparsity that is due after so many of `total` steps were taken; None: the masks stay."""
        end = max(1, round(self.end_fraction * total))
        start = min(round(self.start_fraction * total), end - 1)
        if not start <= taken <= end or ((taken - start) % self.every and taken != end):
            return None
        return cubic((taken - start) / (end - start), self.initial_sparsity, self.sparsity)

    def begin(self, work: Work) -> None:
        super().begin(work)
        self.settled = False
        if self.start_fraction == 0 and self.initial_sparsity:
            self.prune(work, self.initial_sparsity)

    def after_step(self, work: Work, step: int, total: int) -> None:
        if self.settled:
            return
        sparsity = self.due(step + 1, total)
        if sparsity is not None:
            self.prune(work, sparsity)

    def between(self, work: Work, round: int) -> None:
        self.settled = True
        self.reinitialise(work)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "settled": self.settled}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.settled = bool(state_dict["settled"])


class Movement(Gradual):
    """Keeps the weights that training moves away from zero, whatever their size: scores are -sum of w g over the fit's steps
    (Sanh et al. 2020, equation 5, "hard" movement pruning), on the schedule of `Gradual`.

    As in the paper a pruned weight may come back: it keeps the value that it had when it was pruned, its score goes on with
    that value and the gradient at its place, and it returns with it. Masks of earlier stages stay.
    """

    def __init__(self, sparsity: float, **gradual: Any) -> None:
        if gradual.get("criterion", "magnitude") != "magnitude":
            raise UserError(f"compression: criterion={gradual['criterion']}: movement is a criterion of its own")
        super().__init__(sparsity, **gradual)
        self.criterion = "movement"
        self.moved: dict[str, Tensor] = {}  # the scores
        self.asleep: dict[str, Tensor] = {}  # values of pruned weights, 0 elsewhere
        self._chosen: tuple[nn.Module, dict[str, Tensor]] | None = None

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        super().check(model, example, num_outputs)
        frozen = [name for name, weight in self.weights(model).items() if not weight.requires_grad]
        if frozen:
            raise self.mistake(f"{frozen[0]} is frozen: movement needs its gradient; leave its layer out with exclude")

    def begin(self, work: Work) -> None:
        self.moved, self.asleep = {}, {}
        super().begin(work)

    @torch.no_grad()
    def before_step(self, work: Work, step: int, total: int) -> None:
        if self.settled or self.control == "dense":
            return
        if self._chosen is None or self._chosen[0] is not work.model:
            self._chosen = work.model, self.weights(work.model)
        for name, weight in self._chosen[1].items():
            if weight.grad is None:
                continue
            pushed = self._values(name, weight) * weight.grad
            self.moved[name] = self.moved[name].to(weight.device) - pushed if name in self.moved else -pushed

    def _values(self, name: str, weight: Tensor) -> Tensor:
        """The weight with the values of what is pruned: where one is not zero the other is."""
        return weight + self.asleep[name].to(weight.device) if name in self.asleep else weight.detach()

    def find(self, work: Work, weights: Mapping[str, Tensor], sparsity: float) -> Masks:
        scores = {name: self.moved.get(name, torch.zeros_like(w)).to(w.device) for name, w in weights.items()}
        return self.highest(weights, pruned_stay(scores, self.before), sparsity, self.before)

    @torch.no_grad()
    def put(self, work: Work, masks: Masks) -> None:
        for name, weight in self.weights(work.model).items():
            old = work.form.masks.get(name)
            values = self._values(name, weight if old is None else weight * old.to(weight.device))
            self.asleep[name] = values.masked_fill(masks[name], 0.0)
            weight.copy_(values)
        super().put(work, masks)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "moved": self.moved, "asleep": self.asleep}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.moved, self.asleep = dict(state_dict["moved"]), dict(state_dict["asleep"])
