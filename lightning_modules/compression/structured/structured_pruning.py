"""Structured pruning: physically removes channels and attention heads until a cost budget is met.

Longer than other files, since the search and the removal share the units and the copy on the meta device.
"""

import copy
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lightning_modules.compression.compressed_state import Step
from lightning_modules.compression.profiling import meta_copy
from lightning_modules.compression.pruning.saliency import mean_over_batches
from lightning_modules.compression.stage import Settings, Stage, StageContext
from lightning_modules.compression.structured.budget_search import only_budget, relative_cost, search_budget
from lightning_modules.compression.structured.importance import ChannelImportance, ImportanceKind
from lightning_modules.compression.structured.layer_widths import (
    LINEAR_LAYERS,
    diff_widths,
    find_output_layers,
    plot_widths,
    resize_layers,
)
from lightning_modules.compression.structured.prunable_units import (
    PrunableUnits,
    dependency_graph,
    find_units,
    remove_units,
    select_units,
    unsupported_reason,
)
from lightning_modules.config.bounds import Count, OpenFraction, bounded
from lightning_modules.config.errors import UserError, first_line, suggest

_LATENCY_STEPS = 64  # a latency measurement does not resolve finer steps


class StructuredPruning(Stage):
    """Removes the least important channels and heads, as few as needed to bring the network down to its budget.

    Exactly one budget, the fraction to keep: ``macs_ratio``, ``params_ratio`` or ``latency_ratio`` (measured on one
    sample, on the CPU with one thread). Coupled channels are removed together (DepGraph, Fang et al. 2023).
    The outputs of the last layers are kept, and so is everything the graph cannot follow: a padded residual stream
    (CIFAR ResNets lose channels inside the blocks only), the width of torch's own attention (its MLPs lose hidden units).
    Heads are removed where queries, keys and values come from one linear layer (our ViT and timm's). Recurrent layers
    are not supported.

    The stage's fit uses a new optimizer, so no optimizer state has to be pruned. All ranks remove the same units:
    scores depend only on the weights, the batches and the seed, and rank 0 decides the search.

    Args:
        importance: ``magnitude``, ``taylor`` or ``random``, see `structured/importance.py`.
        global_pruning: compare scores, each divided by its layer's mean, across layers; else all layers lose equally.
        max_ratio: the largest fraction of a layer's channels to remove, in (0, 1).
        round_to: each layer keeps a multiple of this many channels; 8 suits the kernels.
        exclude: names or patterns of layers that keep their outputs.
        batches: number of training batches for ``taylor``.
    """

    kind = "structure"
    saved: ClassVar = {"reached": "reached"}

    @bounded
    def __init__(
        self,
        macs_ratio: OpenFraction | None = None,
        params_ratio: OpenFraction | None = None,
        latency_ratio: OpenFraction | None = None,
        importance: ImportanceKind = "magnitude",
        global_pruning: bool = True,
        max_ratio: OpenFraction = 0.9,
        round_to: Count = 1,
        exclude: Sequence[str] = (),
        batches: Count = 8,
        when: Literal["after"] = "after",
        **fit: Any,
    ) -> None:
        super().__init__(when, **fit)
        budget, self.target = only_budget(
            "structured pruning", macs_ratio=macs_ratio, params_ratio=params_ratio, latency_ratio=latency_ratio
        )
        self.what = budget.removesuffix("_ratio")
        self.importance, self.global_pruning, self.max_ratio = importance, global_pruning, max_ratio
        self.round_to, self.exclude, self.batches = round_to, list(exclude), batches
        self.reached: dict[str, float] = {}

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        """Reject a network with nothing to remove, and a budget that even the largest possible removal misses."""
        units, meta_model = self._units(model, example[:1], ChannelImportance("magnitude"))
        cost = relative_cost(self.what, model, meta_model, example[:1])
        self._within_budget(cost(self._step(meta_model, units, example[:1], float("inf"))))

    def begin(self, context: StageContext) -> None:
        model = context.model
        example = context.preprocess(context.example[:1]).to(next(model.parameters()).device)
        if self.importance == "taylor":
            self._set_gradients(context)
        units, meta_model = self._units(model, example, ChannelImportance(self.importance, context.seed))
        model.zero_grad()
        threshold = self._threshold(model, meta_model, units, example)
        step = self._prune(model, units, example, threshold)
        if not step["layers"]:
            raise self.config_error("nothing was removed; relax round_to or the budget")
        context.state.steps.append({"do": "channels", **step})
        self._report(context, meta_model, example)

    def _set_gradients(self, context: StageContext) -> None:
        parameters = dict(context.model.named_parameters())
        try:
            found = mean_over_batches(context, parameters, self.batches, lambda w, g: g, label_smoothing=True)
        except UserError as error:
            raise self.config_error("importance=taylor needs training batches, but there are none") from error
        for name, parameter in parameters.items():
            parameter.grad = found[name]

    def settings(self) -> Settings:
        return {f"{self.what}_ratio": self.target, **self.reached}

    # --- which units can be removed --------------------------------------------------------------------------
    def _units(
        self, model: nn.Module, example: Tensor, importance: ChannelImportance
    ) -> tuple[list[PrunableUnits], nn.Module]:
        """The removable units of `model`, and a copy of it on ``meta``; removing all units together is known to work."""
        if reason := unsupported_reason(model):
            raise self.config_error(reason)
        meta_model = meta_copy(model)
        fixed = self._fixed(meta_model, example.to("meta"))
        try:
            found = find_units(model, dependency_graph(model, example), fixed, importance)
        except UserError:
            raise
        except Exception as error:  # torch-pruning raises many kinds of exceptions
            raise self.config_error(f"torch-pruning cannot follow this network: {first_line(error)}") from error
        return self._removable(meta_model, found, example), meta_model

    def _fixed(self, meta_model: nn.Module, example: Tensor) -> set[str]:
        layers = [name for name, module in meta_model.named_modules() if isinstance(module, LINEAR_LAYERS)]
        for pattern in self.exclude:
            if not any(fnmatchcase(name, pattern) for name in layers):
                raise self.config_error(f"exclude={pattern} matches no layer: {suggest(pattern, layers)}")
        excluded = {name for name in layers if any(fnmatchcase(name, pattern) for pattern in self.exclude)}
        return excluded | find_output_layers(meta_model, example)

    def _removable(self, meta_model: nn.Module, found: list[PrunableUnits], example: Tensor) -> list[PrunableUnits]:
        """All units, or those outside residual streams, or those without heads: the first set the network runs without."""
        inner = [units for units in found if not units.coupled]
        reason = "there is no layer besides the last one and the excluded ones"
        for units in (found, inner, [u for u in inner if u.attention is None]):
            if not units:
                continue
            try:
                self._step(meta_model, units, example, float("inf"))
                return units
            except Exception as error:
                reason = first_line(error)
        raise self.config_error(f"no channel of this network can be removed: {reason}")

    # --- how much to remove ----------------------------------------------------------------------------------
    def _threshold(self, model: nn.Module, meta_model: nn.Module, units: list[PrunableUnits], example: Tensor) -> float:
        if not self.global_pruning:
            for each in units:
                each.scores = (each.scores.argsort(stable=True).argsort() + 1) / len(each.scores)
        scores = torch.cat([each.scores for each in units]).unique().tolist()
        if self.what == "latency":
            scores = scores[:: max(1, len(scores) // _LATENCY_STEPS)] + scores[-1:]
        cost = relative_cost(self.what, model, meta_model, example)
        outputs = _output_shape(meta_model, example)
        index, reached = search_budget(
            lambda i: cost(self._step(meta_model, units, example, scores[i - 1], outputs)), len(scores), self.target
        )
        self._within_budget(reached)
        return scores[index - 1]

    def _step(
        self, meta_model: nn.Module, units: list[PrunableUnits], example: Tensor, threshold: float,
        outputs: torch.Size | None = None,
    ) -> dict[str, object]:  # fmt: skip
        """The step for a threshold, tried on meta; raises if the network does not run, or its `outputs` change their shape."""
        trial = copy.deepcopy(meta_model)
        step = self._prune(trial, units, example.to("meta"), threshold)
        if _output_shape(trial, example) != (outputs or _output_shape(meta_model, example)):
            raise ValueError("the shape of the outputs would change")
        return step

    def _prune(
        self, model: nn.Module, units: list[PrunableUnits], example: Tensor, threshold: float
    ) -> dict[str, object]:
        before, graph = meta_copy(model), dependency_graph(model, example)
        learns = {name: p.requires_grad for name, p in model.named_parameters()}
        for each in units:
            remove_units(model, graph, each, select_units(each, threshold, self.max_ratio, self.round_to))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(learns[name])
        return diff_widths(before, model)

    def _within_budget(self, reached: float) -> None:
        if reached > self.target:
            raise self.config_error(
                f"{self.what}_ratio={self.target} cannot be met: the smallest reachable ratio is {reached:.3f} "
                f"(max_ratio={self.max_ratio}, round_to={self.round_to}, exclude={self.exclude})"
            )

    def _report(self, context: StageContext, meta_model: nn.Module, example: Tensor) -> None:
        step = context.state.steps[-1]
        for what in ("macs", "params"):
            self.reached[f"reached_{what}_ratio"] = relative_cost(what, context.model, meta_model, example)(step)
        context.log({f"compression/{self.name}/{what}": ratio for what, ratio in self.reached.items()})
        title = f"{self.name}: {self.reached['reached_macs_ratio']:.1%} of the MACs remain"
        plot_widths(meta_model, context.model, title, context.folder / f"{self.name}_channels.png")


@torch.no_grad()
def _output_shape(meta_model: nn.Module, example: Tensor) -> torch.Size:
    return meta_model(example.to("meta")).shape


def restore(model: nn.Module, step: Step, example: Tensor) -> nn.Module:
    """Give a network built from its config the widths after pruning."""
    return resize_layers(model, step)
