"""A recipe: the stages of a config in their order, refused before anything is trained where the order makes no sense."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.utils import instantiate
from torch import Tensor, nn

from lightning_modules.compression.stage import AT_MOST_ONCE, ORDER, Stage
from lightning_modules.config.errors import UserError, suggest

RUNTIMES = ("eager", "onnxruntime")
_SETTINGS = ("stages", "runtimes", "budget")


@dataclass(frozen=True)
class Recipe:
    """The stages, and the runtimes in which latency is measured."""

    stages: list[Stage] = field(default_factory=list)
    runtimes: tuple[str, ...] = RUNTIMES

    @property
    def in_fit(self) -> list[Stage]:
        """Those that act in the run's own training."""
        return [stage for stage in self.stages if stage.when in ("fit", "always")]

    @property
    def always(self) -> list[Stage]:
        """Those that act in every fit."""
        return [stage for stage in self.stages if stage.when == "always"]

    @property
    def after(self) -> list[Stage]:
        """Those that begin once the run's own training is over."""
        return [stage for stage in self.stages if stage.when == "after"]

    @property
    def compresses(self) -> bool:
        """Whether there is a compressed network at the end."""
        return any(stage.changes_weights for stage in self.stages)

    @property
    def keeps_last(self) -> bool:
        """Whether the last weights of the run's own training count, and not the best: a schedule is over only then."""
        return any(stage.changes_weights for stage in self.in_fit)


def build_recipe(node: Mapping[str, Any] | None) -> Recipe:
    """Instantiate the stages of ``compression``. Raises UserError for a setting it does not know, or a senseless order."""
    if not node:
        return Recipe()
    for key in node:
        if str(key) not in _SETTINGS:
            raise UserError(f"compression.{key}: there is no such setting; {suggest(str(key), _SETTINGS)}")
    if node.get("budget"):
        raise UserError("compression=budget is a search of many runs, which touchstone train starts")
    runtimes = tuple(node.get("runtimes") or ())
    for runtime in runtimes:
        if runtime not in RUNTIMES:
            raise UserError(f"compression.runtimes={runtime}: {suggest(str(runtime), RUNTIMES)}")
    stages = [_build_stage(str(name), stage) for name, stage in (node.get("stages") or {}).items() if stage]
    _check_order(stages)
    return Recipe(stages, runtimes)


def _build_stage(name: str, node: Any) -> Stage:
    stage = instantiate(node) if "_target_" in node else None
    if not isinstance(stage, Stage):
        raise UserError(f"compression.stages.{name}: '_target_' must be a stage, as in conf/compression")
    stage.name = name
    return stage


def _check_order(stages: list[Stage]) -> None:
    """Raise UserError where a stage would undo an earlier one, or find no weights to work on."""
    told: list[Stage] = []
    for stage in stages:
        for earlier in told:
            place, before = ORDER.index(stage.kind), ORDER.index(earlier.kind)
            if place < before and stage.kind != "distil":
                raise stage.config_error(
                    f"it cannot stand after {earlier.name}: {_WHY_NOT_AFTER[earlier.kind]} (the order is {', '.join(ORDER)})"
                )
            if place == before and stage.kind in AT_MOST_ONCE:
                raise stage.config_error(f"{earlier.name} has done that already: {_WHY_NOT_AFTER[stage.kind]}")
        if stage.needs_initial and any(earlier.kind == "structure" for earlier in told):
            raise stage.config_error(
                "it goes back to the network's first weights, whose layers have another shape by then"
            )
        if stage.when != "after" and stage.kind in ("share", "program", "structure"):
            raise stage.config_error(f"when={stage.when}: this stage begins after training: when=after")
        told.append(stage)


_WHY_NOT_AFTER = {
    "distil": "it only changes the loss",
    "structure": "layers have another shape then",
    "prune": "the zeros that it made belong to weights that would be gone",
    "share": "its shared values would be lost",
    "program": "the network is a finished program then, whose weights cannot be changed",
}


def check_recipe(recipe: Recipe, model: nn.Module, example: Tensor, num_outputs: int) -> None:
    """Let every stage look at the network it will work on: raises UserError before anything is trained.

    `example`: floats [2, *input_shape] as the network reads them. What an earlier stage will do to the network is not
    known yet; the stage looks again when it begins.
    """
    for stage in recipe.stages:
        stage.check(model, example, num_outputs)
