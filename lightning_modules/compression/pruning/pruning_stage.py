"""Base class of the pruning stages: selection of weights, scores, masks, and the controls of an experiment."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from lightning_modules.compression.pruning.saliency import (
    CRITERIA,
    Criterion,
    Masks,
    Scores,
    count_zeros,
    exclude_pruned,
    group_by_layer,
    keep_highest,
    uniform_scores,
)
from lightning_modules.compression.stage import LayerStage, StageContext
from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError, suggest

Control = Literal["random", "reinit", "dense"]


class PruningStage(LayerStage):
    """Sets weights to zero and keeps them zero, by masks in the compressed state; `LayerStage` selects the layers.

    Args:
        sparsity: in [0, 1): the final fraction of zeros among the selected weights, exactly ``round(sparsity * n)``.
        criterion: score of a weight's importance: magnitude, random, snip or taylor.
        scope: ``global``: all weights compete; ``layer``: the weights of each layer, so all layers are equally sparse.
        batches: number of training batches for the gradients of snip and taylor.
        biases: also prune the biases of these layers, which compete with the layer's weights.
        control: the control of an experiment. ``random``: as many zeros in each parameter, at random positions.
            ``reinit``: the masks found, with reinitialized weights. ``dense``: the same training without masks.
    """

    kind = "pruning"
    saved: ClassVar = {"before": "before", "reached": "reached"}
    reported: ClassVar[tuple[str, ...]] = ("criterion", "scope", "sparsity", "control", "reached")
    scopes: ClassVar[tuple[str, ...]] = ("global", "layer")

    @bounded
    def __init__(
        self,
        sparsity: Annotated[float, Ge(0), Lt(1)],
        criterion: Criterion = "magnitude",
        scope: str = "layer",
        batches: Count = 8,
        biases: bool = False,
        control: Control | None = None,
        when: Literal["fit", "after"] = "after",
        **fit: Any,
    ) -> None:
        super().__init__(when=when, **fit)
        if sparsity == 0 and control != "dense":
            raise UserError("compression: sparsity=0 needs control=dense")
        if scope not in self.scopes:
            raise UserError(f"compression: scope={scope}: {suggest(scope, self.scopes)}")
        if control in ("reinit", "dense") and when == "after" and not self.epochs:
            raise UserError(f"compression: control={control} trains, so it needs epochs")
        self.sparsity, self.scope, self.batches, self.biases, self.control = sparsity, scope, batches, biases, control
        self.criterion: str = criterion
        self.before: Masks = {}  # masks of earlier stages
        self.reached: dict[str, float] = {}  # sparsity by parameter

    # --- selection of weights --------------------------------------------------------------------------------
    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The parameters to prune, by name; a parameter shared by two layers appears once."""
        names = super().weights(model)
        if self.biases:
            layers = dict.fromkeys(name.rpartition(".")[0] for name in names)
            names = {
                f"{layer}.{own}".lstrip("."): parameter
                for layer in layers
                for own, parameter in model.get_submodule(layer).named_parameters(recurse=False)
                if own.startswith(("weight", "bias"))
            }
        first = {id(parameter): name for name, parameter in reversed(names.items())}
        return {name: parameter for name, parameter in names.items() if first[id(parameter)] == name}

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        weights = self.weights(model)
        num_zeros, size = sum(self.num_zeros(weights, self.sparsity)[1]), sum(w.numel() for w in weights.values())
        if self.control != "dense" and not 0 < num_zeros < size:
            raise self.config_error(
                f"sparsity={self.sparsity} of {size} weights means {num_zeros} zeros; choose another value"
            )
        for stage in self.earlier if self.control != "dense" else ():
            if (
                isinstance(stage, PruningStage)
                and stage.control != "dense"
                and list(stage.weights(model)) == list(weights)
            ):
                self.check_prunes_something(weights, sum(stage.num_zeros(weights, stage.sparsity)[1]))

    def most_kept(self, model: nn.Module) -> dict[str, int]:
        """The largest number of entries of each selected weight that can stay."""
        weights = self.weights(model)
        kept: dict[str, int] = {}
        for group, zeros in zip(*self.num_zeros(weights, self.sparsity), strict=True):
            left = sum(weights[name].numel() for name in group) - zeros
            kept |= {name: min(weights[name].numel(), left) for name in group if self.control != "dense"}
        return kept

    def num_zeros(self, weights: Mapping[str, Tensor], sparsity: float) -> tuple[list[list[str]], list[int]]:
        """The groups of parameters that compete, and the number of weights to prune in each."""
        groups = [list(weights)] if self.scope == "global" else group_by_layer(weights)
        return groups, [round(sparsity * sum(weights[name].numel() for name in group)) for group in groups]

    # --- masks -----------------------------------------------------------------------------------------------
    def begin(self, context: StageContext) -> None:
        self.check(context.model, context.example, 0)  # an earlier stage may have changed the network
        self.before = dict(context.state.masks)
        if self.control != "dense":
            weights = self.weights(context.model)
            self.check_prunes_something(weights, count_zeros(self.before, weights))

    def check_prunes_something(self, weights: Mapping[str, Tensor], already: int) -> None:
        """Raise UserError if no weight would be pruned beside those that are `already`."""
        wanted = sum(self.num_zeros(weights, self.sparsity)[1])
        if wanted <= already:
            raise self.config_error(
                f"sparsity={self.sparsity} means {wanted} zeros, but {already} weights are already pruned"
            )

    def prune(self, context: StageContext, sparsity: float) -> None:
        """Bring the network to a sparsity: set the masks and apply them."""
        if self.control == "dense":
            return
        masks = self.find_masks(context, self.weights(context.model), sparsity)
        self.set_masks(context, self.random_masks(context, masks) if self.control == "random" else masks)

    def find_masks(self, context: StageContext, weights: Mapping[str, Tensor], sparsity: float) -> Masks:
        """The masks for a sparsity; pruned weights stay pruned."""
        scores = exclude_pruned(self.scores(context, weights), context.state.masks)
        return self.masks_of_highest(weights, scores, sparsity, context.state.masks)

    def scores(self, context: StageContext, weights: Mapping[str, Tensor]) -> Scores:
        return CRITERIA[self.criterion](context, weights, self.batches)

    def masks_of_highest(self, weights: Mapping[str, Tensor], scores: Scores, sparsity: float, pruned: Masks) -> Masks:
        """Masks that keep the highest scores; a group that is sparser already in `pruned` does not change."""
        groups, num_zeros = self.num_zeros(weights, sparsity)
        at_least = [max(count, count_zeros(pruned, group)) for group, count in zip(groups, num_zeros, strict=True)]
        return keep_highest(scores, groups, at_least)

    def random_masks(self, context: StageContext, masks: Masks) -> Masks:
        """As many zeros in each parameter, at random positions; earlier masks stay, and growing masks are nested."""
        scores = exclude_pruned(uniform_scores(self.weights(context.model), context.seed), self.before)
        return keep_highest(scores, [[name] for name in masks], [count_zeros(masks, [name]) for name in masks])

    def set_masks(self, context: StageContext, masks: Masks) -> None:
        for name, mask in masks.items():
            if name in context.state.masks or not mask.all():
                context.state.masks[name] = mask
        context.state.apply(context.model)

    # --- controls and the record -----------------------------------------------------------------------------
    def reinitialize(self, context: StageContext) -> None:
        """Reset the parameters and running statistics of all layers, then apply the masks."""
        device = next(iter(self.weights(context.model).values())).device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(context.seed)
            for module in context.model.modules():
                if callable(reset := getattr(module, "reset_parameters", None)):
                    reset()
        context.state.apply(context.model)

    def end(self, context: StageContext) -> None:
        weights = self.weights(context.model)
        self.reached = {
            name: count_zeros(context.state.masks, [name]) / weight.numel() for name, weight in weights.items()
        }
        wanted, got = sum(self.num_zeros(weights, self.sparsity)[1]), count_zeros(context.state.masks, weights)
        if self.control != "dense" and got < wanted:
            raise self.config_error(f"training ended before the schedule: {got} of {wanted} weights are pruned")
