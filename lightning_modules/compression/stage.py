"""Base class of the stages of a compression recipe, and their context. Longer than 200 lines: it is one interface."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytorch_lightning as pl
from annotated_types import Ge
from torch import Tensor, nn

from lightning_modules.compat.torch import Convolution, StateDict
from lightning_modules.compression.compressed_state import CompressedState
from lightning_modules.compression.plain_module import detached_copy, network_inputs, training_loss
from lightning_modules.config.bounds import Positive, bounded
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.config.plain import PlainDict
from lightning_modules.task.evaluation import EvaluatedModule
from lightning_modules.task.supervised import Supervised

Settings = dict[str, object]  # plain values
When = Literal["fit", "after", "always"]
Kind = Literal["distillation", "structure", "pruning", "weight_quantization", "backend"]
# A stage may follow stages of the same or of an earlier kind.
ORDER: tuple[Kind, ...] = ("distillation", "structure", "pruning", "weight_quantization", "backend")
AT_MOST_ONCE: tuple[Kind, ...] = ("weight_quantization", "backend")


def _no_validation(model: nn.Module) -> float:
    raise UserError("compression: there is no validation set to evaluate a network on")


@dataclass
class StageContext:
    """What a stage works on.

    Attributes:
        task: the LightningModule; a stage changes `model` or replaces it.
        state: masks, codebooks, grids and architecture steps so far; a stage adds its own.
        example: raw samples [N, *input_shape], on the CPU.
        batches: a new iterator over the training batches (dicts with raw ``x`` [B, …] and ``y``, or the ``batch`` of
            another task), in a fixed order and never augmented: for calibration, scores and caches.
        evaluate: returns the monitored metric of a network on the validation set.
        higher_is_better: of `evaluate`.
        initial: the state dict of `model` before training, if a stage has `needs_initial`.
        seed: for a stage's random numbers.
        folder: plots and tables written here become artifacts of the run.
        log: logs metrics to the run.
        module: the attribute of the task that is the network, dotted.
        spec: from which the task is rebuilt.
        not_servable: why the task cannot be served, or empty.
    """

    task: pl.LightningModule
    state: CompressedState
    example: Tensor
    batches: Callable[[], Iterator[dict[str, Tensor]]]
    evaluate: Callable[[nn.Module], float] = _no_validation
    higher_is_better: bool = True
    seed: int = 0
    folder: Path = Path(tempfile.gettempdir())
    log: Callable[[dict[str, float]], None] = lambda metrics: None
    initial: dict[str, Tensor] | None = None
    module: str = "model"
    spec: PlainDict = field(default_factory=dict)
    not_servable: str = ""

    @property
    def model(self) -> nn.Module:
        """The network: floats [B, *input_shape] -> [B, num_outputs]."""
        return self.task.get_submodule(self.module)

    @model.setter
    def model(self, network: nn.Module) -> None:
        self.task.set_submodule(self.module, network)

    @property
    def saved(self) -> nn.Module:
        """What a file of the network holds: the network, or another's task with all that was trained beside it."""
        return self.model if isinstance(self.task, Supervised) else self.task

    def preprocess(self, x: Tensor) -> Tensor:
        """Raw samples -> the network's inputs."""
        if isinstance(self.task, Supervised):
            return self.task.preprocess(x)
        return network_inputs(self.task, self.module, x)

    def for_gradients(self) -> "StageContext":
        """What gradients of the training loss are taken from: a copy, where a training step may change the task."""
        return self if isinstance(self.task, Supervised) else replace(self, task=detached_copy(self.task))

    def loss(self, batch: PlainDict, label_smoothing: bool) -> Tensor:
        """The loss of a batch: as in training, or without `label_smoothing` that of evaluation."""
        task = self.task
        if not isinstance(task, Supervised):
            return training_loss(task, batch["batch"])
        x, y = (batch[key].to(next(task.model.parameters()).device) for key in ("x", "y"))
        if type(task)._buffer_predictions is not EvaluatedModule._buffer_predictions:
            return task.outputs_and_loss({"x": x, "y": y})[1]  # what it evaluates are sums over samples, no outputs
        outputs = task.model(task.preprocess(x))
        return task.loss(outputs, task.loss_target({"y": y})) if label_smoothing else task.evaluation_loss(outputs, y)


class Stage(pl.Callback):
    """One step of a recipe: it begins, is trained for `epochs`, and ends.

    Args:
        when: ``fit`` acts in the run's own training; ``after`` begins after it; ``always`` acts in every fit.
        epochs: of fine-tuning between `begin` and `end`, in a separate fit (``after`` only).
        lr: the learning rate of that fit; None: the optimizer's own.

    A stage with several `rounds` has that many fits of `epochs`, with `after_round` called in between.

    `before_step` and `after_step` are called around every optimizer step, in the ordinary and in the fast loop, on all
    ranks alike; randomness in them must depend on the seed and the step only.

    Attributes:
        saved: attributes that survive a resume (tensors and plain values), by their key in `state_dict`.
        reported: attributes that are recorded as params of the logged model.
        changes_weights: False: the best weights of a fit may be used (distillation).
        name: the stage's key in the recipe.
        earlier: the stages before it in the recipe.
    """

    kind: ClassVar[Kind]
    saved: ClassVar[Mapping[str, str]] = {}
    reported: ClassVar[tuple[str, ...]] = ()
    needs_initial: ClassVar[bool] = False
    changes_weights: ClassVar[bool] = True
    name = ""
    earlier: Sequence["Stage"] = ()
    rounds = 1

    @bounded
    def __init__(self, when: When = "after", epochs: Annotated[int, Ge(0)] = 0, lr: Positive | None = None) -> None:
        if epochs and when != "after":
            raise UserError(f"compression: epochs={epochs} with when={when}: only a stage with when=after has epochs")
        self.when, self.epochs, self.lr = when, epochs, lr

    @property
    def state_key(self) -> str:
        return f"{type(self).__qualname__}:{self.name}"

    def config_error(self, what: str) -> UserError:
        """A UserError that names this stage."""
        return UserError(f"compression.stages.{self.name}: {what}")

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        """Raise UserError, before anything is trained, if this stage cannot work on the network.

        `example`: preprocessed floats [2, *input_shape]. `model` must not be changed.
        """

    def check_task(self, task: object) -> None:
        """Like `check`, for what depends on the task: its classes, its augmentation."""

    def begin(self, context: StageContext) -> None:
        """Change the network before this stage's fit; not called again when that fit is resumed."""

    def before_step(self, context: StageContext, step: int, total: int) -> None:
        """Called with gradients, before step `step` (from 0) of the `total` steps of this fit."""

    def after_step(self, context: StageContext, step: int, total: int) -> None:
        """Called after step `step` of `total`, before the compressed state is applied to the network."""

    def loss(self, loss: Tensor, outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """The training loss of a batch (augmented, raw ``x``), given the task's own loss and the outputs [B, K]."""
        return loss

    def after_round(self, context: StageContext, round: int) -> None:
        """Change the network after round `round` (from 0), except after the last."""

    def restore_network(self, context: StageContext) -> None:
        """When a fit is resumed, rebuild the network that `begin` built; its weights are loaded afterwards."""

    def end(self, context: StageContext) -> None:
        """Finish this stage; called after its fit, or right after `begin` if it has none."""

    def settings(self) -> Settings:
        """Settings and results as plain values."""
        return {name: getattr(self, name) for name in self.reported}

    def state_dict(self) -> StateDict:
        return {key: getattr(self, attribute) for key, attribute in self.saved.items()}

    def load_state_dict(self, state_dict: StateDict) -> None:
        for key, attribute in self.saved.items():
            setattr(self, attribute, state_dict[key])


class LayerStage(Stage):
    """A stage that works on the weights of selected layers.

    Args:
        layers, exclude: names or patterns of layers, such as ``blocks.*``; `layers` None: all linear, convolutional and
            recurrent ones.
    """

    def __init__(self, layers: Sequence[str] | None = None, exclude: Sequence[str] = (), **fit: Any) -> None:
        super().__init__(**fit)
        self.layers, self.exclude = layers, list(exclude)

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        self.weights(model)

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights of the selected layers. Raises UserError if there are none."""
        try:
            found = layer_weights(model, self.layers, self.exclude)
        except UserError as error:
            raise self.config_error(str(error)) from error
        if not found:
            raise self.config_error("the network has no linear, convolutional or recurrent layer")
        return found


def layer_weights(
    model: nn.Module, layers: Sequence[str] | None = None, exclude: Sequence[str] = ()
) -> dict[str, Tensor]:
    """The weights of selected layers by parameter name (``features.0.weight``), in the model's order.

    A recurrent layer has several. Raises UserError for a name that matches no layer, with suggestions.
    """
    kinds = (nn.Linear, Convolution, nn.RNNBase)
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds)}
    for pattern in (*(layers or ()), *exclude):
        if not any(fnmatchcase(name, pattern) for name in found):
            raise UserError(f"no layer matches {pattern}; {suggest(pattern, found)}")
    weights: dict[str, Tensor] = {}
    for name, layer in found.items():
        wanted = layers is None or any(fnmatchcase(name, pattern) for pattern in layers)
        if wanted and not any(fnmatchcase(name, pattern) for pattern in exclude):
            own = dict(layer.named_parameters(recurse=False))
            weights |= {f"{name}.{key}".lstrip("."): own[key] for key in own if key.startswith("weight")}
    return weights
