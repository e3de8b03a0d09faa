"""The progress bar of a training: batches of the epoch, epochs, remaining time and metrics, on one line of 80 columns."""

import math
import time
from collections.abc import Sequence
from datetime import timedelta

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar, Timer
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from torch import Tensor

from lightning_modules.report.tables import open_console

_COLUMNS = 45  # of the line without metrics


class CompactProgressBar(ProgressBar):
    """One bar for the training batches of an epoch, and another one for `long_validation` batches of evaluation or more.

    It is redrawn by time, not by batches, so that small steps cost nothing. Without a terminal nothing is drawn.

    Args:
        refresh_rate: how often per second it is redrawn.
        leave: keep the bar of each epoch.
        shown: metrics to the right of the bar, as far as they fit; those logged with ``prog_bar=True`` follow.
    """

    def __init__(
        self,
        refresh_rate: int = 5,
        leave: bool = False,
        long_validation: int = 20,
        shown: Sequence[str] = ("val/loss", "val/accuracy", "train/accuracy"),
    ) -> None:
        super().__init__()
        self.refresh_rate, self.leave, self.long_validation, self.shown = refresh_rate, leave, long_validation, shown
        self._enabled, self._counted_steps = True, False
        self._progress: Progress | None = None
        self._train: TaskID | None = None
        self._evaluation: TaskID | None = None
        self._batches, self._per_epoch, self._first = 0, math.inf, 0
        self._began = self._drawn = 0.0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    # --- training ------------------------------------------------------------------------------------------------
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        fast_loop = getattr(pl_module, "fast_loop", None)  # to Lightning, its calls of many batches are batches
        self._per_epoch = fast_loop.planned_steps(trainer)[1] if fast_loop else self.total_train_batches
        self._batches, self._counted_steps = 0, False
        if self.leave:
            self._stop()
        self._draw()

    def count_batch(self) -> None:
        """Count a batch: called by a loop that trains on several in one call."""
        self._counted_steps = True
        self._batches += 1
        if self._is_due():
            self._draw()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if not self._counted_steps:
            self._batches = batch_idx + 1
            if self._is_due():
                self._draw()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._train is not None:
            self._draw(ended=True)
        self._stop()

    def _is_due(self) -> bool:
        return self.refresh_rate > 0 and time.monotonic() - self._drawn >= 1 / self.refresh_rate

    def _draw(self, ended: bool = False) -> None:
        """Redraw the line: the epoch, its batches, the time that remains, and the latest metrics."""
        self._drawn = now = time.monotonic()
        progress = self._open()
        if progress is None:
            return
        total, epochs = self._per_epoch, self.trainer.max_epochs
        done = self.trainer.current_epoch * (0 if total == math.inf else int(total)) + self._batches
        if self._train is None:
            self._train, self._began, self._first = progress.add_task("", batches="", time="", metrics=""), now, done
        known = epochs is not None and epochs > 0
        epoch = min(self.trainer.current_epoch + 1, epochs) if known and epochs else self.trainer.current_epoch + 1
        progress.update(
            self._train,
            description=f"Epoch {epoch:{len(str(epochs))}}/{epochs}" if known else f"Epoch {epoch}",
            completed=self._batches,
            total=None if total == math.inf else total,
            batches=str(self._batches) if total == math.inf else f"{self._batches}/{total}",
            time=_duration(now - self._began) if ended else self._time(done, now),
            metrics=self._metrics(progress.console.width - _COLUMNS),
        )
        progress.refresh()

    def _time(self, done: int, now: float) -> str:
        """What remains of the training at the pace since its start; the time it has taken, where its end is not known."""
        elapsed, trainer = now - self._began, self.trainer
        ends = [self._per_epoch * (trainer.max_epochs or -1), trainer.max_steps * trainer.accumulate_grad_batches]
        total = min((end for end in ends if end >= 0), default=math.inf)
        left = elapsed * (total - done) / (done - self._first) if done > self._first else math.inf
        timers = [one.time_remaining() for one in trainer.callbacks if isinstance(one, Timer)]  # type: ignore[attr-defined]
        left = min([left, *(seconds for seconds in timers if seconds is not None)])
        return f"{_duration(left)} left" if math.isfinite(left) else _duration(elapsed)

    def _metrics(self, width: int) -> str:
        """The latest values, as many as fit."""
        known: dict[str, float | Tensor] = {**self.trainer.callback_metrics, **self.trainer.progress_bar_metrics}
        names = [name for name in dict.fromkeys((*self.shown, *self.trainer.progress_bar_metrics)) if name in known]
        text = ""
        for name in names:
            longer = f"{text}  {name} {float(known[name]):.3f}".strip()
            text = longer if len(longer) <= max(width, 20) else text
        return text

    # --- evaluation ------------------------------------------------------------------------------------------------
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_evaluation("Validation", trainer.num_val_batches)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_evaluation("Test", trainer.num_test_batches)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_evaluation("Prediction", trainer.num_predict_batches)

    def _start_evaluation(self, text: str, batches: Sequence[float]) -> None:
        progress, total = self._open(), sum(map(float, batches))
        if progress is not None and total >= self.long_validation:
            known = None if total == math.inf else total
            self._evaluation = progress.add_task(text, total=known, batches="", time="", metrics="")

    def on_validation_batch_end(self, *args: object, **kwargs: object) -> None:
        if self._progress is None or self._evaluation is None:
            return
        self._progress.advance(self._evaluation)
        if self._is_due():
            self._drawn = time.monotonic()
            task = self._progress.tasks[-1]
            total = "" if task.total is None else f"/{task.total:.0f}"
            self._progress.update(self._evaluation, batches=f"{task.completed:.0f}{total}")
            self._progress.refresh()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._progress is not None and self._evaluation is not None:
            self._progress.remove_task(self._evaluation)
        self._evaluation = None
        if trainer.state.fn != "fit":
            self._stop()
        elif self._train is not None:
            self._draw()

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end
    on_test_end = on_predict_end = on_validation_end

    # --- the display ------------------------------------------------------------------------------------------------
    def _open(self) -> Progress | None:
        """The display, started where it is not; None without a terminal or where the bar is switched off."""
        if not self._enabled or self.refresh_rate <= 0:
            return None
        if self._progress is None:
            console = open_console()
            texts = (TextColumn(f"{{task.fields[{name}]}}") for name in ("batches", "time", "metrics"))
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), *texts)
            off = not (console.is_terminal or console.is_jupyter)
            self._progress = Progress(*columns, console=console, auto_refresh=False, expand=True, disable=off)
            self._progress.start()
        return None if self._progress.disable else self._progress

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._train = self._evaluation = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop()


def _duration(seconds: float) -> str:
    """As in 0:01:23."""
    return str(timedelta(seconds=round(seconds)))
