"""One-shot pruning, unstructured or N:M: score, prune once, then fine-tune."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_modules.compression.pruning.layer_sensitivity import (
    LEVELS,
    measure_sensitivity,
    sparsity_per_layer,
    write_sensitivity,
)
from lightning_modules.compression.pruning.pruning_stage import PruningStage
from lightning_modules.compression.pruning.saliency import (
    Masks,
    exclude_pruned,
    group_by_layer,
    keep_n_of_m,
    uniform_scores,
)
from lightning_modules.compression.stage import StageContext, When
from lightning_modules.config.bounds import OpenFraction, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict


class OneShot(PruningStage):
    """Prunes when it begins: a trained network with ``when=after``, an untrained one with ``when=fit`` (SNIP).

    Args:
        sparsity: see `PruningStage`, also for the other arguments.
        scope: as in `PruningStage`, or ``sensitivity``: each layer gets the sparsity that, with this layer pruned alone,
            costs as much on the validation set as that of the other layers.
        sensitivity: prune each layer alone to the `levels` and record the costs (sensitivity.png, sensitivity.csv).
    """

    scopes: ClassVar[tuple[str, ...]] = ("global", "layer", "sensitivity")
    saved: ClassVar = {**PruningStage.saved, "shares": "shares"}
    reported: ClassVar[tuple[str, ...]] = (*PruningStage.reported, "shares")

    @bounded
    def __init__(
        self, sparsity: float, sensitivity: bool = False, levels: Sequence[OpenFraction] = LEVELS, **prune: Any
    ) -> None:
        super().__init__(sparsity, **prune)
        if not levels:
            raise UserError("compression: levels=[]: expected at least one sparsity")
        self.sensitivity = sensitivity or self.scope == "sensitivity"
        self.levels = sorted(levels)
        self.shares: dict[str, float] = {}  # sparsity by layer, if chosen by sensitivity

    def num_zeros(self, weights: Mapping[str, Tensor], sparsity: float) -> tuple[list[list[str]], list[int]]:
        groups, counts = super().num_zeros(weights, sparsity)
        if self.shares and self.scope == "sensitivity":
            sizes = [sum(weights[name].numel() for name in group) for group in groups]
            counts = [round(self.shares[g[0].rpartition(".")[0]] * n) for g, n in zip(groups, sizes, strict=True)]
        return groups, counts

    def begin(self, context: StageContext) -> None:
        super().begin(context)
        if self.sensitivity:
            self._measure_sensitivity(context)
        self.prune(context, self.sparsity)
        if self.control == "reinit":
            self.reinitialize(context)

    def _measure_sensitivity(self, context: StageContext) -> None:
        weights = self.weights(context.model)
        scores = exclude_pruned(self.scores(context, weights), context.state.masks)
        curves = measure_sensitivity(context, weights, scores, self.levels)
        write_sensitivity(curves, context)
        if self.scope == "sensitivity":
            sizes = {g[0].rpartition(".")[0]: sum(weights[name].numel() for name in g) for g in group_by_layer(weights)}
            self.shares = sparsity_per_layer(curves, sizes, self.sparsity)


class NOfM(OneShot):
    """Keeps the `n` highest-scoring of every `m` consecutive inputs of each output; sparse tensor cores support 2:4.

    Args:
        n, m: 0 < n < m.
        criterion, batches, layers, exclude, control: see `PruningStage`; biases are not pruned.
    """

    scopes: ClassVar[tuple[str, ...]] = ("layer",)
    reported: ClassVar[tuple[str, ...]] = (*OneShot.reported, "n", "m")

    def __init__(
        self,
        n: int = 2,
        m: int = 4,
        criterion: str = "magnitude",
        batches: int = 8,
        layers: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        control: str | None = None,
        when: When = "after",
        epochs: int = 0,
        lr: float | None = None,
    ) -> None:
        if not 0 < n < m:
            raise UserError(f"compression: n={n}, m={m}: expected 0 < n < m, as n of every m weights are kept")
        self.n, self.m = n, m
        which: PlainDict = {"criterion": criterion, "batches": batches, "control": control}
        super().__init__(
            1 - n / m, layers=layers, exclude=exclude, when=when, epochs=epochs, lr=lr, **which
        )  # fmt: skip

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        super().check(model, example, num_outputs)
        wrong = {name: tuple(w.shape) for name, w in self.weights(model).items() if w.shape[1] % self.m}
        if wrong:
            listed = ", ".join(f"{name} {list(shape)}" for name, shape in wrong.items())
            layers = ",".join(dict.fromkeys(name.rpartition(".")[0] for name in wrong))
            raise self.config_error(
                f"{self.n}:{self.m} sparsity needs a number of inputs (dimension 1) that is a multiple of {self.m}, unlike"
                f" {listed}; exclude them with compression.stages.{self.name}.exclude=[{layers}]"
            )

    def check_prunes_something(self, weights: Mapping[str, Tensor], already: int) -> None:
        """A network that is sparser already may still violate the pattern."""

    def find_masks(self, context: StageContext, weights: Mapping[str, Tensor], sparsity: float) -> Masks:
        scores = exclude_pruned(self.scores(context, weights), context.state.masks)
        masks = self._combine(keep_n_of_m(scores, self.n, self.m), context.state.masks)
        if all(name in self.before and torch.equal(mask, self.before[name]) for name, mask in masks.items()):
            raise self.config_error(f"the network is already {self.n}:{self.m} sparse")
        return masks

    def random_masks(self, context: StageContext, masks: Masks) -> Masks:
        scores = exclude_pruned(uniform_scores(self.weights(context.model), context.seed), self.before)
        return self._combine(keep_n_of_m(scores, self.n, self.m), self.before)

    def _combine(self, masks: Masks, before: Masks) -> Masks:
        """Both masks: weights that were pruned before stay pruned."""
        return {name: mask & before[name].to(mask.device) if name in before else mask for name, mask in masks.items()}
