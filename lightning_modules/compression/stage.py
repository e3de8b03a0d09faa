"""A stage: one step of a compression recipe, and what it works on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
from torch import Tensor, nn

from lightning_modules.compression.compressed_state import CompressedState
from lightning_modules.config.errors import UserError, suggest

When = Literal["fit", "after", "always"]
Kind = Literal["distil", "structure", "prune", "share", "program"]
# A stage may stand behind a kind of its own or of an earlier place, but for what is below it on this list.
ORDER: tuple[Kind, ...] = ("distil", "structure", "prune", "share", "program")
AT_MOST_ONCE: tuple[Kind, ...] = ("share", "program")


@dataclass
class StageContext:
    """What a stage works on.

    Attributes:
        task: the LightningModule; a stage changes ``task.model``, or puts another network in its place.
        form: masks, codebooks, grids and structure so far; a stage adds its own.
        example: raw samples [N, *input_shape], on the CPU.
        batches: a fresh iterator over the training batches (dicts with ``x`` raw [B, …] and ``y``), in a fixed
            order, never augmented: for calibration, scores and caches.
        evaluate: the monitored metric of a network in place of ``task.model``, on the validation part.
        higher_is_better: of `evaluate`.
        initial: the state dict of ``task.model`` before its first step, where a stage asked for it (`needs_initial`).
        seed: for a stage's random draws.
        folder: pictures and tables written here are shown with the run.
        log: metrics for the run, by name.
    """

    task: Any
    state: CompressedState
    example: Tensor
    batches: Callable[[], Iterator[dict[str, Tensor]]]
    evaluate: Callable[[nn.Module], float]
    higher_is_better: bool
    seed: int
    folder: Path
    log: Callable[[dict[str, float]], None]
    initial: dict[str, Tensor] | None = None

    @property
    def model(self) -> nn.Module:
        """The network: floats [B, *input_shape] -> [B, num_outputs]."""
        return self.task.model

    def preprocess(self, x: Tensor) -> Tensor:
        """Raw samples as the network reads them."""
        return self.task.preprocess(x)


class Stage(pl.Callback):
    """One step of a recipe. It begins, is trained for `epochs`, and ends.

    Args:
        when: ``fit`` acts in the run's own training; ``after`` begins once that is over; ``always`` acts in every fit.
        epochs: of fine-tuning between `begin` and `end`, in a fit of its own (``after`` only).
        lr: the learning rate of that fit; None: the optimizer's own.

    A stage with `rounds` has so many fits of `epochs`, and `between` is called from one to the next.

    A stage that acts in a fit counts on `before_step` and `after_step`: they are called around every step of the
    optimizer, in the ordinary and in the quick loop, on all ranks alike; do nothing random in them that is no function
    of `work.seed` and the step. State between begin and end belongs into `state_dict`, as tensors and plain values.
    """

    kind: ClassVar[Kind]
    needs_initial: ClassVar[bool] = False
    changes_weights: ClassVar[bool] = True  # false: the weights of a fit may be chosen by validation (distillation)
    name = ""  # its key in the recipe
    rounds = 1

    def __init__(self, when: When = "after", epochs: int = 0, lr: float | None = None) -> None:
        if when not in ("fit", "after", "always"):
            raise UserError(f"compression: when={when}: {suggest(str(when), ('fit', 'after', 'always'))}")
        if epochs < 0 or (epochs and when != "after"):
            raise UserError(f"compression: epochs={epochs} with when={when}: only when=after has epochs of its own")
        self.when, self.epochs, self.lr = when, epochs, lr

    @property
    def state_key(self) -> str:
        return f"{type(self).__qualname__}:{self.name}"

    def config_error(self, what: str) -> UserError:
        """A UserError that names this stage."""
        return UserError(f"compression.stages.{self.name}: {what}")

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        """Raise UserError, before anything is trained, where this stage cannot work on the network.

        `example`: floats [2, *input_shape] as the network reads them. `model` must not be changed.
        """

    def check_task(self, task: Any) -> None:
        """As `check`, for what depends on the task: its classes, its augmentation."""

    def begin(self, context: StageContext) -> None:
        """Change the network before this stage's fit; not called again where that fit is resumed."""

    def before_step(self, context: StageContext, step: int, total: int) -> None:
        """Gradients are there: step `step` (from 0) of `total` of this stage's fit is about to be taken."""

    def after_step(self, context: StageContext, step: int, total: int) -> None:
        """Step `step` of `total` was taken. `work.form` is applied to the network after this."""

    def loss(self, loss: Tensor, outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """The training loss of a batch (augmented, raw ``x``), given the task's own loss and the outputs [B, K]."""
        return loss

    def after_round(self, context: StageContext, round: int) -> None:
        """Change the network after fit `round` (from 0), unless it was the last."""

    def restore_network(self, context: StageContext) -> None:
        """Put the network that `begin` made in its place again, before its weights are loaded: the fit is resumed."""

    def end(self, context: StageContext) -> None:
        """Settle what this stage gives; called after its fit, and right after `begin` where it has none."""

    def settings(self) -> dict[str, Any]:
        """Plain values that say what was done, for the record of the logged model."""
        return {}


def layer_weights(
    model: nn.Module,
    kinds: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d),
    layers: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
) -> dict[str, Tensor]:
    """The weights of the layers that a stage works on, by parameter name (``features.0.weight``), in the model's order.

    Args:
        kinds: layers of these classes; recurrent ones give all their matrices.
        layers: names or patterns (``blocks.*``) of layers; None: all of `kinds`.
        exclude: likewise, taken out.

    Raises UserError for a name that matches no such layer, with the nearest ones.
    """
    from fnmatch import fnmatchcase

    kinds = (*kinds, nn.RNNBase)
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds)}
    for pattern in (*(layers or ()), *exclude):
        if not any(fnmatchcase(name, pattern) for name in found):
            raise UserError(f"no layer is called {pattern}: {suggest(pattern, found)}")
    weights: dict[str, Tensor] = {}
    for name, layer in found.items():
        wanted = layers is None or any(fnmatchcase(name, pattern) for pattern in layers)
        if wanted and not any(fnmatchcase(name, pattern) for pattern in exclude):
            own = dict(layer.named_parameters(recurse=False))
            weights |= {f"{name}.{key}".lstrip("."): own[key] for key in own if key.startswith("weight")}
    return weights
