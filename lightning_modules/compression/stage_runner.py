"""Runs the stages of a recipe after training, each with its fits, and resumes where an earlier process stopped."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lightning_modules.compression.compressed_state import CompressedState, apply_steps
from lightning_modules.compression.compression_callback import CompressionCallback
from lightning_modules.compression.recipe import Recipe
from lightning_modules.compression.stage import Stage, StageContext
from lightning_modules.model.checksum import save_with_checksum
from lightning_modules.tracking.checkpoint import read_checkpoint

# (stage, callback, active stages, folder of its last checkpoint, checkpoint to resume from) -> optimizer steps taken
FitFunction = Callable[[Stage, CompressionCallback, list[Stage], Path, Path | None], int]


@dataclass
class StageRunner:
    """Runs the stages with ``when=after``.

    Attributes:
        fit: trains the network for a stage, see `FitFunction`.
        folder: where resume points are written: ``<number>-<stage>/{begun,last,done}.ckpt``.
        writes: whether this process writes them.
        first_step: optimizer steps taken before; the fits of a run share one step axis.
        flush: sends the metrics logged so far to the store; called before a resume point is written.
    """

    recipe: Recipe
    context: StageContext
    fit: FitFunction
    folder: Path
    writes: bool
    first_step: int = 0
    flush: Callable[[], Any] | None = None

    def __post_init__(self) -> None:
        self.steps = self.first_step
        self.forked = False  # set by `fit`

    def run(self) -> Iterator[tuple[int, Stage, bool]]:
        """Yield (number, stage, whether an earlier process had completed it) after each stage."""
        for number, stage in enumerate(self.recipe.after, 1):
            place = self.folder / f"{number}-{stage.name}"
            done = self._restored(place / "done.ckpt", stage)
            if done is None:
                self._train(stage, place)
                stage.end(self.context)
            yield number, stage, done is not None
            if done is None:  # only now: if the process is killed while recording the stage, it must record it again
                self._write(place / "done.ckpt", stage, 0)
                for name in ("begun.ckpt", "last.ckpt"):
                    (place / name).unlink(missing_ok=True)

    def clean(self) -> None:
        """Delete the resume points when the run is complete."""
        for number, stage in enumerate(self.recipe.after, 1):
            shutil.rmtree(self.folder / f"{number}-{stage.name}", ignore_errors=True)

    def _train(self, stage: Stage, place: Path) -> None:
        """Run all rounds of a stage, or the remaining ones."""
        start_point = self._restored(place / "begun.ckpt", stage, restore_network=True)
        if start_point is None:
            stage.begin(self.context)
            self.context.state.apply(self.context.model)
            first = 0
        else:
            first = int(start_point["round"])
        for number in range(first, stage.rounds if stage.epochs else 0):
            last = place / "last.ckpt"
            if start_point is None:
                last.unlink(missing_ok=True)
                self._write(place / "begun.ckpt", stage, number)
            callback = CompressionCallback(self.context, [*self.recipe.always, stage])
            self.steps += self.fit(
                stage, callback, [*self.recipe.always, stage], place, last if last.exists() else None
            )
            self._take_over(stage, callback, last)
            start_point = None
            if number + 1 < stage.rounds:
                stage.after_round(self.context, number)
                self.context.state.apply(self.context.model)

    def _take_over(self, stage: Stage, callback: CompressionCallback, last: Path) -> None:
        """After a fit in forked processes, read the stage and the compressed state from their checkpoint."""
        if self.forked and last.exists():
            states = read_checkpoint(last)["callbacks"]
            callback.load_state_dict(states[callback.state_key])
            if stage.state_key in states:
                stage.load_state_dict(states[stage.state_key])

    # --- resume points ---------------------------------------------------------------------------------------
    def _write(self, path: Path, stage: Stage, number: int) -> None:
        if not self.writes:
            return
        if self.flush is not None:
            self.flush()
        point = {
            "round": number,
            "steps": self.steps,
            "form": self.context.state.plain_dict(),
            "stage": stage.state_dict(),
            "model": self.context.model.state_dict(),
        }
        save_with_checksum(point, path)

    def _restored(self, path: Path, stage: Stage, restore_network: bool = False) -> dict[str, Any] | None:
        """Restore network, compressed state and stage from a resume point; None if it does not exist."""
        if not path.is_file():
            return None
        point = read_checkpoint(path)
        state = CompressedState.of(point["form"])
        self.context.task.model = apply_missing_steps(self.context, state)
        self.context.state.replace(state)
        stage.load_state_dict(point["stage"])
        if restore_network:
            stage.restore_network(self.context)
        self.context.model.load_state_dict(point["model"])
        self.steps = max(self.steps, int(point["steps"]))  # older runs counted from their best weights
        return point


def apply_missing_steps(context: StageContext, state: CompressedState) -> nn.Module:
    """The network after those architecture steps of the state that it has not had yet."""
    done = len(context.state.steps)
    return apply_steps(context.model, state.steps[done:], context.preprocess(context.example[:1]))
