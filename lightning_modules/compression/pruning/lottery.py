"""Lottery tickets: repeatedly train, prune and rewind; the final masks are trained from early weights."""

from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.compression.pruning.pruning_stage import PruningStage
from lightning_modules.compression.pruning.saliency import count_zeros
from lightning_modules.compression.stage import Settings, StageContext, StateDict
from lightning_modules.config.bounds import Count, NonNegative, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.config.metric_direction import higher_is_better
from lightning_modules.config.plain import PlainDict


class LotteryTicket(PruningStage):
    """Iterative pruning with rewinding (Frankle and Carbin 2019, section 2; Frankle et al. 2020, "Linear mode connectivity
    and the lottery ticket hypothesis", algorithm 2).

    The run's own training is the first training. Each round prunes, rewinds weights and buffers to those before the
    first step or at epoch k, and trains `epochs` again with a new optimizer and schedule; the last round trains the final
    masks. Controls are applied to the final ticket, before its training; ``control=dense`` is one training of `epochs`
    from the initial weights.

    Each round logs ``lottery/sparsity`` and, with ``data.watch_test=true``, ``lottery/test/<metric>`` with the best of the
    round on test and by validation (see `RoundMetrics`). The last round also logs them as ``ticket/test/<metric>``.

    Args:
        sparsity: of the ticket; see `PruningStage` for the other arguments.
        rounds: number of prunings.
        steps: ``factor``: each round prunes the same fraction of the remaining weights; ``equal``: sparsity grows by
            equal steps.
        rewind_epochs: k, less than `epochs`, may be a fraction; 0: the initial weights. With k > 0 the dense network is
            trained once more from its initial weights, to obtain those of epoch k.
    """

    needs_initial = True
    saved: ClassVar = {**PruningStage.saved, "early": "rewind_state"}

    @bounded
    def __init__(
        self,
        sparsity: float,
        rounds: Count = 5,
        steps: Literal["factor", "equal"] = "factor",
        rewind_epochs: NonNegative = 0.0,
        **prune: Any,
    ) -> None:
        super().__init__(sparsity, **prune)
        if self.when != "after" or not self.epochs:
            raise UserError(
                "compression: a lottery ticket is trained after the dense network; set epochs and when=after"
            )
        if rewind_epochs >= self.epochs:
            raise UserError(f"compression: rewind_epochs={rewind_epochs}: expected less than epochs={self.epochs}")
        self.prunings, self.steps, self.rewind_epochs = rounds, steps, rewind_epochs
        self.rounds = 1 if self.control == "dense" else rounds + (rewind_epochs > 0)
        self.rewind_state: dict[str, Tensor] = {}  # the network's state at epoch `rewind_epochs`
        self.round_metrics = RoundMetrics()

    def begin(self, context: StageContext) -> None:
        super().begin(context)
        self.rewind_state = {}
        self.round_metrics.reset()
        initial = self._initial(context)
        if self.rewind_epochs or self.control == "dense":
            context.model.load_state_dict(initial)
            context.state.apply(context.model)
        else:
            self._next_ticket(context, 1)

    def _initial(self, context: StageContext) -> dict[str, Tensor]:
        """The initial weights. Raises UserError if they no longer fit the network, or if it was not trained."""
        initial, now = context.initial, context.model.state_dict()
        if initial is None or {k: v.shape for k, v in initial.items()} != {k: v.shape for k, v in now.items()}:
            raise self.config_error(
                "an earlier stage changed the network's architecture, so its initial weights do not fit"
            )
        if all(
            torch.equal(initial[name].to(weight.device), weight) for name, weight in self.weights(context.model).items()
        ):
            raise self.config_error(
                "the network was not trained; the run's own training finds the ticket, so set trainer.max_epochs"
            )
        return initial

    def after_step(self, context: StageContext, step: int, total: int) -> None:
        if not self.rewind_epochs or self.rewind_state:
            return
        if step + 1 == max(1, round(self.rewind_epochs / self.epochs * total)):
            self.rewind_state = {name: tensor.clone() for name, tensor in context.model.state_dict().items()}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.round_metrics.update(trainer.callback_metrics)

    def after_round(self, context: StageContext, round: int) -> None:
        self._log_round(context)
        self._next_ticket(context, round + (1 if self.rewind_epochs else 2))

    def end(self, context: StageContext) -> None:
        super().end(context)
        context.log({f"ticket/{name}": value for name, value in self.round_metrics.named().items()})
        self._log_round(context)

    def _log_round(self, context: StageContext) -> None:
        weights = self.weights(context.model)
        sparsity = count_zeros(context.state.masks, weights) / sum(weight.numel() for weight in weights.values())
        named = {"sparsity": sparsity, **self.round_metrics.named()}
        context.log({f"lottery/{name}": value for name, value in named.items()})
        self.round_metrics.reset()

    def _next_ticket(self, context: StageContext, number: int) -> None:
        """Pruning `number` (from 1), then rewind; the last ticket may become a control."""
        last = number == self.prunings
        weights = self.weights(context.model)
        masks = self.find_masks(context, weights, iterative_sparsity(number, self.prunings, self.sparsity, self.steps))
        self.set_masks(context, self.random_masks(context, masks) if last and self.control == "random" else masks)
        rewind_state = self.rewind_state if self.rewind_epochs else context.initial
        if not rewind_state:
            raise self.config_error(f"training ended before rewind_epochs={self.rewind_epochs}")
        context.model.load_state_dict(rewind_state)
        context.state.apply(context.model)
        if last and self.control == "reinit":
            self.reinitialize(context)

    def settings(self) -> Settings:
        own = {"rounds": self.prunings, "steps": self.steps, "rewind_epochs": self.rewind_epochs}
        return {**super().settings(), **own}

    def state_dict(self) -> StateDict:
        return {**super().state_dict(), "measures": self.round_metrics.seen}

    def load_state_dict(self, state_dict: StateDict) -> None:
        super().load_state_dict(state_dict)
        self.round_metrics.seen = {kind: dict(values) for kind, values in state_dict["measures"].items()}


def iterative_sparsity(number: int, rounds: int, final: float, steps: str) -> float:
    """Sparsity after pruning `number` (from 1) of `rounds`.

    Args:
        steps: ``equal``: each round adds ``final / rounds``; ``factor``: each round prunes the same fraction of the
            remaining weights (Frankle and Carbin 2019, section 1).
    """
    if number == rounds:
        return final
    return final * number / rounds if steps == "equal" else 1 - (1 - final) ** (number / rounds)


class RoundMetrics:
    """Follows ``test/<metric>`` over the validations of one round, if ``data.watch_test=true`` measures it.

    `named` returns three values of each metric, which shows the effect of the selection rule: ``test/accuracy`` (after
    the last step), ``test/accuracy_best`` (the best on test, which is optimistic) and ``test/accuracy_best_val`` (where
    ``val/accuracy`` was best; only with a validation set).
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start a new round."""
        self.seen: dict[str, dict[str, float]] = {"last": {}, "best": {}, "by_val": {}, "val": {}}

    def update(self, metrics: PlainDict) -> None:
        """Add the metrics of one validation; those of single classes or targets are ignored.

        A metric of unknown direction has a last value only.
        """
        best, best_val = self.seen["best"], self.seen["val"]
        for name, value in metrics.items():
            part, _, metric = name.partition("/")
            if part != "test" or "/" in metric:
                continue
            self.seen["last"][name] = float(value)
            if higher_is_better(name) is None:
                continue
            better = max if higher_is_better(name) else min
            best[name] = better(float(value), best.get(name, float(value)))
            if (val := metrics.get(f"val/{metric}")) is not None:
                known = best_val.get(name)
                best_val[name] = float(val) if known is None else better(float(val), known)
                if best_val[name] != known:  # of equal values the first counts
                    self.seen["by_val"][name] = float(value)

    def named(self) -> dict[str, float]:
        """All values by name; empty if test metrics were not measured."""
        best = {f"{name}_best": value for name, value in self.seen["best"].items()}
        return {**self.seen["last"], **best, **{f"{n}_best_val": value for n, value in self.seen["by_val"].items()}}
