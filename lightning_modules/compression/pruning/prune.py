"""What the pruning stages share: the choice of weights, their scores, the masks, and the controls of an experiment."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_modules.compression.pruning.masks import Masks, by_layer, count_zeros, keep_highest, pruned_stay
from lightning_modules.compression.pruning.scores import CRITERIA, Scores, noise
from lightning_modules.compression.stage import Stage, When, Work, weights_of
from lightning_modules.errors import UserError, nearest

CONTROLS = ("random", "reinit", "dense")


class Prune(Stage):
    """Sets weights to zero and keeps them there, by masks in ``work.form``.

    Args:
        sparsity: in [0, 1): the fraction of the chosen weights that are zero in the end, exactly ``round(sparsity * n)``.
        criterion: of which weights matter: magnitude, random, snip, taylor.
        scope: ``global``: all weights compete; ``layer``: those of each layer, so that all layers are equally sparse.
        batches: training batches from which snip and taylor take gradients.
        layers, exclude: names or patterns of layers, as ``blocks.*``; null: all linear, convolutional and recurrent ones.
        biases: prune the biases of these layers too; they compete with the layer's weights.
        control: an experiment's control instead of pruning as such. ``random``: as many zeros in each parameter, at random
            places. ``reinit``: the masks found, on weights drawn anew from the layers' default distribution. ``dense``: no
            mask at all, the same training.
    """

    kind = "prune"
    scopes: ClassVar[tuple[str, ...]] = ("global", "layer")

    def __init__(
        self,
        sparsity: float,
        criterion: str = "magnitude",
        scope: str = "layer",
        batches: int = 8,
        layers: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        biases: bool = False,
        control: str | None = None,
        when: When = "after",
        **fit: Any,
    ) -> None:
        super().__init__(when=when, **fit)
        self.sparsity, self.criterion, self.scope, self.batches = sparsity, criterion, scope, batches
        self.layers, self.exclude, self.biases, self.control = layers, exclude, biases, control
        self.before: Masks = {}  # the masks of earlier stages
        self.reached: dict[str, float] = {}  # sparsity by parameter
        self._refuse()

    def _refuse(self) -> None:
        """Raise UserError for values that no network could make right."""
        if not 0 <= self.sparsity < 1 or (self.sparsity == 0 and self.control != "dense"):
            raise UserError(f"compression: sparsity={self.sparsity}: it must lie in [0, 1), and 0 needs control=dense")
        for key, known in (("criterion", tuple(CRITERIA)), ("scope", self.scopes), ("control", (None, *CONTROLS))):
            value = getattr(self, key)
            if value not in known:
                raise UserError(f"compression: {key}={value}: {nearest(str(value), (k for k in known if k))}")
        if self.when == "always":
            raise UserError("compression: when=always: masks stay in force anyway; pruning takes when=fit or after")
        if self.batches < 1:
            raise UserError(f"compression: batches={self.batches}: at least one is needed")
        if self.control in ("reinit", "dense") and self.when == "after" and not self.epochs:
            raise UserError(f"compression: control={self.control} is a training: it needs epochs")

    # --- the choice of weights -------------------------------------------------------------------------------
    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The parameters that are pruned, by name; one that two layers share appears once."""
        weights = weights_of(model, layers=self.layers, exclude=self.exclude)
        layers = dict.fromkeys(name.rpartition(".")[0] for name in weights)
        names = {
            f"{layer}.{own}".lstrip("."): parameter
            for layer in layers
            for own, parameter in model.get_submodule(layer).named_parameters(recurse=False)
            if own.startswith(("weight", "bias") if self.biases else "weight")
        }
        first = {id(parameter): name for name, parameter in reversed(names.items())}
        return {name: parameter for name, parameter in names.items() if first[id(parameter)] == name}

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        try:
            weights = self.weights(model)
        except UserError as error:
            raise self.mistake(str(error)) from error
        if not weights:
            raise self.mistake(
                "the network has no linear, convolutional or recurrent layer whose weights it could prune"
            )
        zeros, size = sum(self.zeros(weights, self.sparsity)[1]), sum(w.numel() for w in weights.values())
        if self.control != "dense" and not 0 < zeros < size:
            raise self.mistake(f"sparsity={self.sparsity} of {size} weights is {zeros} zeros: choose another")

    def zeros(self, weights: Mapping[str, Tensor], sparsity: float) -> tuple[list[list[str]], list[int]]:
        """The groups of parameters that compete, and how many weights of each are pruned."""
        groups = [list(weights)] if self.scope == "global" else by_layer(weights)
        return groups, [round(sparsity * sum(weights[name].numel() for name in group)) for group in groups]

    # --- masks -----------------------------------------------------------------------------------------------
    def begin(self, work: Work) -> None:
        self.check(work.model, work.example, 0)  # an earlier stage may have changed the network
        self.before = dict(work.form.masks)
        if self.control != "dense":
            self.refuse_nothing(self.weights(work.model))

    def refuse_nothing(self, weights: Mapping[str, Tensor]) -> None:
        """Raise UserError where no weight would be pruned that is not pruned already."""
        already, wanted = count_zeros(self.before, weights), sum(self.zeros(weights, self.sparsity)[1])
        if wanted <= already:
            raise self.mistake(
                f"sparsity={self.sparsity} means {wanted} zeros, but {already} weights are pruned already"
            )

    def prune(self, work: Work, sparsity: float) -> None:
        """Bring the network to a sparsity: masks into ``work.form``, zeros into the weights."""
        if self.control == "dense":
            return
        masks = self.find(work, self.weights(work.model), sparsity)
        self.put(work, self.at_random(work, masks) if self.control == "random" else masks)

    def find(self, work: Work, weights: Mapping[str, Tensor], sparsity: float) -> Masks:
        """The masks of a sparsity; what is pruned already stays so."""
        scores = pruned_stay(self.scores(work, weights), work.form.masks)
        return self.highest(weights, scores, sparsity, work.form.masks)

    def scores(self, work: Work, weights: Mapping[str, Tensor]) -> Scores:
        return CRITERIA[self.criterion](work, weights, self.batches)

    def highest(self, weights: Mapping[str, Tensor], scores: Scores, sparsity: float, pruned: Masks) -> Masks:
        """The masks that keep the highest scores; a group that is sparser already in `pruned` stays as it is."""
        groups, zeros = self.zeros(weights, sparsity)
        at_least = [max(count, count_zeros(pruned, group)) for group, count in zip(groups, zeros, strict=True)]
        return keep_highest(scores, groups, at_least)

    def at_random(self, work: Work, masks: Masks) -> Masks:
        """As many zeros in each parameter, elsewhere; masks of earlier stages stay in force, and growing ones are nested."""
        scores = pruned_stay(noise(self.weights(work.model), work.seed), self.before)
        return keep_highest(scores, [[name] for name in masks], [count_zeros(masks, [name]) for name in masks])

    def put(self, work: Work, masks: Masks) -> None:
        for name, mask in masks.items():
            if name in work.form.masks or not mask.all():
                work.form.masks[name] = mask
        work.form.apply(work.model)

    # --- controls and the record -----------------------------------------------------------------------------
    def reinitialise(self, work: Work) -> None:
        """Draw the parameters of all layers anew, as their classes do it, and clear the statistics of batch norm."""
        device = next(iter(self.weights(work.model).values())).device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(work.seed)
            for module in work.model.modules():
                if callable(reset := getattr(module, "reset_parameters", None)):
                    reset()
        work.form.apply(work.model)

    def end(self, work: Work) -> None:
        weights = self.weights(work.model)
        self.reached = {name: count_zeros(work.form.masks, [name]) / weight.numel() for name, weight in weights.items()}
        wanted, got = sum(self.zeros(weights, self.sparsity)[1]), count_zeros(work.form.masks, weights)
        if self.control != "dense" and got < wanted:
            raise self.mistake(f"training ended before its schedule: {got} weights are pruned instead of {wanted}")

    def settings(self) -> dict[str, Any]:
        """What was asked for, and the sparsity of each parameter."""
        names = ("criterion", "scope", "sparsity", "control")
        return {**{name: getattr(self, name) for name in names}, "reached": self.reached}

    def state_dict(self) -> dict[str, Any]:
        return {"before": self.before, "reached": self.reached}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before, self.reached = dict(state_dict["before"]), dict(state_dict["reached"])
