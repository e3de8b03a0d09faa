"""The distillation stage, which changes only the loss of the fits in which it acts."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast, get_args

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lightning_modules.compression.distillation.feature_matching import (
    FeatureHooks,
    HintRegressors,
    check_layers,
    match_spatial_size,
)
from lightning_modules.compression.distillation.losses import attention_transfer_loss, relational_loss, soft_target_loss
from lightning_modules.compression.distillation.teacher import LogitCache, Teacher, load_teacher, output_classes
from lightning_modules.compression.stage import Settings, Stage, StageContext, StateDict, When
from lightning_modules.config.bounds import Fraction, NonNegative, Positive, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.task.supervised import Supervised
from lightning_modules.task.task_spec import model_shapes

Term = Literal["hints", "attention", "relational"]


class Distillation(Stage):
    """``(1 - alpha) * loss + alpha * soft targets + weight * term``; see `losses.py` for each and its paper.

    Args:
        teacher: see `load_teacher`; a list is an ensemble, whose probabilities are averaged.
        weights: file with the weights of a torchvision teacher.
        temperature: T of the soft targets.
        alpha: weight of the soft targets, in [0, 1].
        term: a loss between features: ``hints`` (FitNet), ``attention`` or ``relational``; for several, use several stages.
        layers: student layer: teacher layer; without layers ``relational`` compares the outputs.
        weight: of `term`; null: 1 for hints, 1000 for attention, 25 for relational, as in the papers.
        hint_lr: learning rate of the regressors' Adam.
        cache: cache the teacher's logits of each training sample (needs augmentation=none).

    The teacher gets exactly the student's samples, including augmentation and mixing.
    """

    kind = "distillation"
    changes_weights: ClassVar[bool] = False

    @bounded
    def __init__(
        self,
        teacher: str | Sequence[str],
        weights: str | None = None,
        temperature: Positive = 4.0,
        alpha: Fraction = 0.9,
        term: Term | None = None,
        layers: Mapping[str, str] | None = None,
        weight: NonNegative | None = None,
        hint_lr: Positive = 1e-3,
        cache: bool = False,
        when: When = "fit",
        **fit: Any,
    ) -> None:
        super().__init__(when, **fit)
        self.teacher_uris = [teacher] if isinstance(teacher, str) else [str(name) for name in teacher]
        self.weights, self.temperature, self.alpha = weights, temperature, alpha
        self.term, self.layers, self.caches = term, dict(layers or {}), cache
        self.weight = weight if weight is not None else {"attention": 1000.0, "relational": 25.0}.get(str(term), 1.0)
        self.hints, self.cache = HintRegressors(hint_lr), LogitCache()
        self._teacher: Teacher | None = None
        self._features: list[FeatureHooks] = []
        self._preprocess: Any = None
        self._kind = "multiclass"
        self._device: torch.device | None = None
        problems = (
            (not self.teacher_uris, "teacher=[]: expected at least one teacher"),
            (
                not alpha and not (term and self.weight),
                "alpha=0 needs a term with a weight above 0, else nothing is learned from the teacher",
            ),
            (
                term in ("hints", "attention") and not layers,
                f"term={term} needs the layers to compare: layers={{STUDENT: TEACHER}}",
            ),
            (layers and not term, f"layers need a term; choose one of: {', '.join(get_args(Term))}"),
            (
                layers and len(self.teacher_uris) > 1,
                "layers: only the outputs of an ensemble can be compared, not its features",
            ),
            (cache and layers, "cache=true caches the teacher's logits, not features; remove layers"),
        )
        if any(holds for holds, _ in problems):
            raise UserError("compression: " + "; ".join(text for holds, text in problems if holds))

    # --- before training -------------------------------------------------------------------------------------
    @torch.no_grad()
    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        """Load the teacher; raise UserError if it, its layers or its features do not match the student."""
        try:
            teacher = load_teacher(self.teacher_uris, self.weights, example.shape[1:], num_outputs)
            teacher.check_shapes(example.shape[1:], num_outputs)
            if self.layers:
                check_layers(model, teacher.members[0].network, self.layers, self.term or "", example)
        except UserError as error:
            raise self.config_error(str(error)) from error
        self._teacher = teacher

    def check_task(self, task: Any) -> None:
        """Raise UserError if the teacher was trained for other classes, or if its logits cannot be cached."""
        self._kind, classes = output_classes(task)
        if self.alpha and self._kind == "regression":
            raise self.config_error(f"alpha={self.alpha}: a regression has no soft targets; use alpha=0 and a term")
        try:
            if self._teacher is None:
                self._teacher = load_teacher(self.teacher_uris, self.weights, *model_shapes(task.task_spec))
            self._teacher.check_classes(self._kind, classes)
        except UserError as error:
            raise self.config_error(str(error)) from error
        if self.caches and task.augmentation is not None:
            raise self.config_error(
                "cache=true needs augmentation=none, as the teacher's outputs change with augmentation"
            )

    def begin(self, context: StageContext) -> None:
        self.check_task(context.task)

    # --- in a fit: Lightning's hooks, since `begin` is not called when a fit is resumed ---------------------------
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set hooks on the current network: an earlier stage may have replaced it."""
        self.attach(cast(Supervised, pl_module))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.detach()

    def attach(self, task: Supervised) -> None:
        """Prepare to teach the network of `task`."""
        self.detach()
        self.check_task(task)
        assert self._teacher is not None
        self._preprocess, self.hints.seed = task.preprocess, task.seed
        if self.layers:
            try:
                student = FeatureHooks(task.model, list(self.layers), "the student's network of this fit")
            except UserError as error:
                raise self.config_error(str(error)) from error
            teacher = FeatureHooks(self._teacher.members[0].network, list(self.layers.values()), "the teacher")
            self._features = [student, teacher]

    def detach(self) -> None:
        """Remove the hooks."""
        for side in self._features:
            side.remove()
        self._features = []

    def loss(self, loss: Tensor, outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        assert self._teacher is not None, "attach comes first"
        if outputs.device != self._device:
            self._teacher.to(outputs.device)
            self._device = outputs.device
        own = self._features[0].take() if self._features else [outputs]
        compute = functools.partial(self._teacher.logits, preprocess=self._preprocess)
        logits = self.cache.look_up(batch, compute) if self.caches else compute(batch["x"])
        total = loss
        if self.alpha:
            soft = soft_target_loss(outputs, logits, self.temperature, self._kind)
            total = (1 - self.alpha) * loss + self.alpha * soft
        if self.term:
            theirs = self._features[1].take() if self._features else [logits.float().mean(0)]
            total = total + self.weight * self._compare(own, theirs)
        return total

    def _compare(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        if self.term == "hints":
            return self.hints.loss(student, teacher)
        if self.term == "attention":
            found = [attention_transfer_loss(*match_spatial_size(s, t)) for s, t in zip(student, teacher, strict=True)]
        else:
            found = [relational_loss(s, t) for s, t in zip(student, teacher, strict=True)]
        return torch.stack(found).mean()

    def before_step(self, context: StageContext, step: int, total: int) -> None:
        self.hints.step()

    # --- state -----------------------------------------------------------------------------------------------
    def state_dict(self) -> StateDict:
        return {"hints": self.hints.state_dict(), "cache": self.cache.state_dict()}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self.hints.load_state_dict(state_dict["hints"])
        self.cache.load_state_dict(state_dict["cache"])

    def settings(self) -> Settings:
        return {"teacher": self.teacher_uris, "temperature": self.temperature, "alpha": self.alpha, "term": self.term}
