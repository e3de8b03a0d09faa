"""Runs the stages of a recipe after training, each with its fits, and resumes where an earlier process stopped."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.compression.compressed_state import CompressedState, apply_steps
from lightning_modules.compression.compression_callback import CompressionCallback
from lightning_modules.compression.recipe import Recipe
from lightning_modules.compression.stage import Stage, StageContext
from lightning_modules.config.plain import PlainDict
from lightning_modules.data.in_memory import InMemoryData
from lightning_modules.model.checksum import save_with_checksum
from lightning_modules.tracking.checkpoint import read_checkpoint

# (stage, active callbacks, folder of its last checkpoint, checkpoint to resume from)
# -> optimizer steps taken, and whether the ranks were forked processes
FitFunction = Callable[[Stage, list[pl.Callback], Path, Path | None], tuple[int, bool]]


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
    flush: Callable[[], object] | None = None

    def __post_init__(self) -> None:
        self.steps = self.first_step

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
            acting = [*self.recipe.always, stage]
            callback = CompressionCallback(self.context, acting)
            steps, forked = self.fit(stage, [*acting, callback], place, last if last.exists() else None)
            self.steps += steps
            if forked:
                load_callback_states(last, [callback, stage])
            start_point = None
            if number + 1 < stage.rounds:
                stage.after_round(self.context, number)
                self.context.state.apply(self.context.model)

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
            "model": self.context.saved.state_dict(),
        }
        save_with_checksum(point, path)

    def _restored(self, path: Path, stage: Stage, restore_network: bool = False) -> PlainDict | None:
        """Restore network, compressed state and stage from a resume point; None if it does not exist."""
        if not path.is_file():
            return None
        point = read_checkpoint(path)
        state = CompressedState.of(point["form"])
        missing = state.steps[len(self.context.state.steps) :]  # the network has had the others already
        x = self.context.preprocess(self.context.example[:1])
        self.context.model = apply_steps(self.context.model, missing, x)
        self.context.state.replace(state)
        stage.load_state_dict(point["stage"])
        if restore_network:
            stage.restore_network(self.context)
        self.context.saved.load_state_dict(point["model"])
        self.steps = max(self.steps, int(point["steps"]))  # older runs counted from their best weights
        return point


def load_callback_states(last: Path, callbacks: Sequence[pl.Callback]) -> None:
    """Load the states that a fit in other processes left in its last checkpoint, if there is one."""
    if last.exists():
        states = read_checkpoint(last)["callbacks"]
        for callback in callbacks:
            if callback.state_key in states:
                callback.load_state_dict(states[callback.state_key])


def calibration_batches(data: InMemoryData, seed: int) -> Iterator[dict[str, Tensor]]:
    """The training batches in an order that depends on the seed alone, not augmented."""
    arrays, index = data.arrays, data.splits["train"]
    order = index[torch.randperm(len(index), generator=torch.Generator().manual_seed(seed))]
    for part in order.split(data.batch_size):
        if data.drop_single and len(part) == 1:
            return
        yield {"x": arrays.x.index_select(0, part), "y": arrays.y.index_select(0, part), "index": part}
