"""A recipe: the ordered stages of a config, validated before anything is trained."""

from dataclasses import dataclass, field

import pytorch_lightning as pl
from hydra.utils import instantiate
from torch import Tensor

from lightning_modules.compression.stage import AT_MOST_ONCE, ORDER, Stage, StageContext
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.config.plain import PlainDict
from lightning_modules.task.supervised import Supervised

RUNTIMES = ("eager", "onnxruntime")
_SETTINGS = ("stages", "runtimes", "module")


@dataclass(frozen=True)
class Recipe:
    """The stages, and the runtimes in which latency is measured."""

    stages: list[Stage] = field(default_factory=list)
    runtimes: tuple[str, ...] = RUNTIMES

    @property
    def in_fit(self) -> list[Stage]:
        """The stages that act in the run's own training."""
        return [stage for stage in self.stages if stage.when in ("fit", "always")]

    @property
    def always(self) -> list[Stage]:
        """The stages that act in every fit."""
        return [stage for stage in self.stages if stage.when == "always"]

    @property
    def after(self) -> list[Stage]:
        """The stages that begin after the run's own training."""
        return [stage for stage in self.stages if stage.when == "after"]

    @property
    def compresses(self) -> bool:
        """Whether the recipe produces a compressed network."""
        return any(stage.changes_weights for stage in self.stages)

    @property
    def keeps_last(self) -> bool:
        """Whether to use the last weights of the run's own training, not the best: schedules end only there."""
        return any(stage.changes_weights for stage in self.in_fit)


def build_recipe(node: PlainDict | None) -> Recipe:
    """Instantiate the stages of ``compression``. Raises UserError for an unknown setting or an invalid order."""
    if not node:
        return Recipe()
    for key in node:
        if str(key) not in _SETTINGS:
            raise UserError(f"compression.{key}: unknown setting; {suggest(str(key), _SETTINGS)}")
    runtimes = tuple(node.get("runtimes") or ())
    for runtime in runtimes:
        if runtime not in RUNTIMES:
            raise UserError(f"compression.runtimes={runtime}: {suggest(str(runtime), RUNTIMES)}")
    stages = [_build_stage(str(name), stage) for name, stage in (node.get("stages") or {}).items() if stage]
    _check_order(stages)
    return Recipe(stages, runtimes)


def _build_stage(name: str, node: PlainDict) -> Stage:
    stage = instantiate(node) if "_target_" in node else None
    if not isinstance(stage, Stage):
        raise UserError(f"compression.stages.{name}: expected a stage's '_target_', as in conf/compression")
    stage.name = name
    return stage


def _check_order(stages: list[Stage]) -> None:
    """Raise UserError if a stage would undo an earlier one, or would have no weights to work on."""
    previous: list[Stage] = []
    for stage in stages:
        for earlier in previous:
            place, before = ORDER.index(stage.kind), ORDER.index(earlier.kind)
            if place < before and stage.kind != "distillation":
                raise stage.config_error(
                    f"cannot follow {earlier.name}: {_WHY_NOT_AFTER[earlier.kind]} (order: {', '.join(ORDER)})"
                )
            if place == before and stage.kind in AT_MOST_ONCE:
                raise stage.config_error(f"{earlier.name} already did this: {_WHY_NOT_AFTER[stage.kind]}")
        if stage.needs_initial and any(earlier.kind == "structure" for earlier in previous):
            raise stage.config_error(
                "rewinds to the initial weights, but an earlier stage has changed the layers' shapes"
            )
        if stage.when != "after" and stage.kind in ("weight_quantization", "backend", "structure"):
            raise stage.config_error(f"when={stage.when}: this stage runs after training; use when=after")
        previous.append(stage)


_WHY_NOT_AFTER = {
    "distillation": "it only changes the loss",
    "structure": "it changes the layers' shapes",
    "pruning": "its zeros would be lost with the weights they belong to",
    "weight_quantization": "its shared values would be lost",
    "backend": "it turns the network into an ONNX model, whose weights cannot be changed",
}


def check_recipe(recipe: Recipe, context: StageContext, example: Tensor, num_outputs: int, metric: str | None) -> None:
    """Let every stage validate network and task before anything is trained. Raises UserError.

    Of the effect of earlier stages on the network, only bounds are known, so each stage validates again when it begins.

    Args:
        example: preprocessed floats [2, *input_shape].
        metric: that is monitored.
    """
    task = context.task
    for stage in recipe.stages if not isinstance(task, Supervised) else ():
        _check_supported(stage, task, metric)
    for number, stage in enumerate(recipe.stages):
        stage.earlier = recipe.stages[:number]
        stage.check(context.model, example, num_outputs)
    for stage in recipe.stages:
        stage.check_task(task)


def _check_supported(stage: Stage, task: pl.LightningModule, metric: str | None) -> None:
    """Raise UserError if a stage needs more than the network of a task that is not one of ours."""
    chosen = {getattr(stage, name, None) for name in ("criterion", "importance", "by")}
    by_gradients, by_metric = (
        {"snip", "taylor", "proxy"} & chosen,
        "metric" in chosen or getattr(stage, "sensitivity", False),
    )
    for lacking, reason in (
        (type(stage).loss is not Stage.loss, "it adds to the loss, so the task must be derived from Supervised"),
        (stage.lr, f"lr={stage.lr}: configure_optimizers of the task sets its own; set it there"),
        (by_gradients and not task.automatic_optimization, "with manual optimization, training_step returns no loss"),
        (
            by_metric and metric is None,
            "it compares networks: set task.monitor.metric to one that validation_step logs",
        ),
    ):
        if lacking:
            raise stage.config_error(f"{type(task).__name__}: {reason}")
