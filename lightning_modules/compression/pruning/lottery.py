"""Lottery tickets: train, prune, rewind, again; the masks found are trained from early weights."""

from typing import Any

import torch
from torch import Tensor

from lightning_modules.compression.pruning.masks import count_zeros
from lightning_modules.compression.pruning.prune import Prune
from lightning_modules.compression.pruning.rounds import RoundMeasures
from lightning_modules.compression.pruning.schedule import in_rounds
from lightning_modules.compression.stage import Work
from lightning_modules.errors import UserError, nearest

STEPS = ("factor", "equal")


class LotteryTicket(Prune):
    """Iterative pruning with rewinding (Frankle and Carbin 2019, section 2; Frankle et al. 2020, "Linear mode connectivity
    and the lottery ticket hypothesis", algorithm 2).

    The run's own training gives the first trained network. Each round prunes, puts the weights (buffers too) back to what
    they were before the first step or at epoch k, and trains `epochs` again from there, with optimizer and schedule built
    anew; the last one trains the final masks. Controls act on the finished ticket, before that last training;
    ``control=dense`` is one training of `epochs` from the initial weights.

    Each round logs ``lottery/sparsity`` and, with ``data.watch_test=true``, ``lottery/test/<metric>``, the best of the round
    on test and by validation beside it (see `RoundMeasures`); the last round's stand alone as ``ticket/test/<metric>``.

    Args:
        sparsity: of the ticket, as `Prune`, with the other arguments.
        rounds: how many times it prunes.
        steps: ``factor``: each round prunes the same fraction of what is left; ``equal``: sparsity grows by equal steps.
        rewind_epochs: k, less than `epochs`, may be a fraction; 0: the initial weights. With k > 0 the dense network is
            trained once more, from its initial weights, to have those of epoch k.
    """

    needs_initial = True

    def __init__(
        self,
        sparsity: float,
        rounds: int = 5,
        steps: str = "factor",
        rewind_epochs: float = 0.0,
        **prune: Any,
    ) -> None:
        super().__init__(sparsity, **prune)
        if self.when != "after" or not self.epochs:
            raise UserError("compression: a lottery ticket is trained after the dense network: when=after, and epochs")
        if rounds < 1:
            raise UserError(f"compression: rounds={rounds}: at least one")
        if steps not in STEPS:
            raise UserError(f"compression: steps={steps}: {nearest(steps, STEPS)}")
        if not 0 <= rewind_epochs < self.epochs:
            raise UserError(f"compression: rewind_epochs={rewind_epochs}: it must lie in [0, epochs={self.epochs})")
        self.prunings, self.steps, self.rewind_epochs = rounds, steps, rewind_epochs
        self.rounds = 1 if self.control == "dense" else rounds + (rewind_epochs > 0)
        self.early: dict[str, Tensor] = {}  # the network's state at epoch `rewind_epochs`
        self.measures = RoundMeasures()

    def begin(self, work: Work) -> None:
        super().begin(work)
        self.early = {}
        self.measures.clear()
        initial = self._initial(work)
        if self.rewind_epochs or self.control == "dense":
            work.model.load_state_dict(initial)
            work.form.apply(work.model)
        else:
            self._next_ticket(work, 1)

    def _initial(self, work: Work) -> dict[str, Tensor]:
        """Raises UserError where rewinding makes no sense: another structure, or nothing was learnt yet."""
        initial, now = work.initial, work.model.state_dict()
        if initial is None or {k: v.shape for k, v in initial.items()} != {k: v.shape for k, v in now.items()}:
            raise self.mistake("an earlier stage changed the network's structure: its initial weights no longer fit")
        if all(
            torch.equal(initial[name].to(weight.device), weight) for name, weight in self.weights(work.model).items()
        ):
            raise self.mistake(
                "the network was not trained: a ticket is found by the run's own training, trainer.max_epochs"
            )
        return initial

    def after_step(self, work: Work, step: int, total: int) -> None:
        if not self.rewind_epochs or self.early:
            return
        if step + 1 == max(1, round(self.rewind_epochs / self.epochs * total)):
            self.early = {name: tensor.clone() for name, tensor in work.model.state_dict().items()}

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.measures.see(trainer.callback_metrics)

    def between(self, work: Work, round: int) -> None:
        self._log_round(work)
        self._next_ticket(work, round + (1 if self.rewind_epochs else 2))

    def end(self, work: Work) -> None:
        super().end(work)
        work.log({f"ticket/{name}": value for name, value in self.measures.named().items()})
        self._log_round(work)

    def _log_round(self, work: Work) -> None:
        weights = self.weights(work.model)
        sparsity = count_zeros(work.form.masks, weights) / sum(weight.numel() for weight in weights.values())
        named = {"sparsity": sparsity, **self.measures.named()}
        work.log({f"lottery/{name}": value for name, value in named.items()})
        self.measures.clear()

    def _next_ticket(self, work: Work, number: int) -> None:
        """Prune for the time `number` (from 1), and rewind; the last ticket may become a control."""
        last = number == self.prunings
        weights = self.weights(work.model)
        masks = self.find(work, weights, in_rounds(number, self.prunings, self.sparsity, self.steps))
        self.put(work, self.at_random(work, masks) if last and self.control == "random" else masks)
        early = self.early if self.rewind_epochs else work.initial
        if not early:
            raise self.mistake(f"training ended before rewind_epochs={self.rewind_epochs}")
        work.model.load_state_dict(early)
        work.form.apply(work.model)
        if last and self.control == "reinit":
            self.reinitialise(work)

    def settings(self) -> dict[str, Any]:
        own = {"rounds": self.prunings, "steps": self.steps, "rewind_epochs": self.rewind_epochs}
        return {**super().settings(), **own}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "early": self.early, "measures": self.measures.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.early = dict(state_dict["early"])
        self.measures.load_state_dict(state_dict["measures"])
