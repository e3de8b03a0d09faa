"""What a run of a sweep does at the end of each epoch: it looks whether it shall end, and tells a search how far it is."""

import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lightning_modules.config.errors import UserError
from lightning_modules.config.signals import RunStopped


class PruningClient:
    """Asks the study of a search whether a trial is worth going on with.

    Args:
        settings: `journal` (file of the study), `study`, `metric`, `pruner`, `options` and `max_epochs`.
        number: of the trial.
    """

    def __init__(self, settings: Mapping[str, Any], number: int) -> None:
        self.metric: str = settings["metric"]
        self._settings, self._number = settings, number
        self._trial: Any = None

    def prune(self, epoch: int, value: float) -> bool:
        """Report the metric's `value` after the epoch of this number, counted from 0; whether the trial shall end."""
        if self._trial is None:  # here, and not before a fork: the rank that asks is the one that opens the file
            self._trial = self._open()
        self._trial.report(value, epoch + 1)
        return bool(self._trial.should_prune())

    def _open(self) -> Any:
        import optuna

        from lightning_modules.compat.optuna import trial_in_storage
        from lightning_modules.sweep.optuna_plan import open_journal
        from lightning_modules.sweep.pruner import make_pruner

        study = optuna.load_study(
            study_name=self._settings["study"],
            storage=open_journal(Path(self._settings["journal"])),
            sampler=optuna.samplers.RandomSampler(),  # it proposes nothing here, and costs nothing
            pruner=make_pruner(self._settings["pruner"], self._settings["options"], self._settings["max_epochs"]),
        )
        return trial_in_storage(study, self._number)


class SweepCallback(pl.Callback):
    """Ends a run, at the end of an epoch and with its checkpoint written, when its sweep stops or a search prunes it.

    Rank 0 decides, all ranks obey. Raises `Stopped` at the end of `fit`, and UserError where an objective was measured
    but never had a finite value: nothing can be chosen by it.

    Args:
        stop: the file whose presence stops the sweep.
        sweep_pid: of the process that drives the sweep, on `host`; its runs do not outlive it.
        objectives: the metrics by which trials are compared.
    """

    def __init__(
        self, stop: Path, sweep_pid: int, host: str, judge: PruningClient | None = None, objectives: Sequence[str] = ()
    ) -> None:
        self._stop, self._judge = stop, judge
        self._is_finite = dict.fromkeys(objectives, False)
        self._measured: set[str] = set()
        self._sweep_pid = sweep_pid if host == platform.node() else None
        self._reason = ""
        self._value: float | None = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._judge is not None and not trainer.sanity_checking:
            self._value = float(trainer.callback_metrics.get(self._judge.metric, math.nan))
        if not trainer.sanity_checking:
            self._see_objectives(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        reason = self._why(trainer.current_epoch) if trainer.is_global_zero else ""
        last = trainer.max_epochs is not None and trainer.current_epoch + 1 >= trainer.max_epochs > 0
        self._reason = trainer.strategy.broadcast("" if last else reason)
        if self._reason:
            trainer.should_stop = True  # the checkpoint callbacks come after this one, and see it

    def _why(self, epoch: int) -> str:
        if self._judge is not None and self._value is not None:
            value, self._value = self._value, None
            if math.isfinite(value) and self._judge.prune(epoch, value):
                return "PRUNED"
        return "STOPPED" if self._stop.exists() or self._is_orphan() else ""

    def _is_orphan(self) -> bool:
        if self._sweep_pid is None:
            return False
        try:
            os.kill(self._sweep_pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._reason:
            raise RunStopped(self._reason)
        self._see_objectives(trainer)
        self._require_finite()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._see_objectives(trainer)
        self._require_finite()

    def _see_objectives(self, trainer: pl.Trainer) -> None:
        for name in self._is_finite.keys() & trainer.callback_metrics.keys():
            self._measured.add(name)
            self._is_finite[name] |= math.isfinite(float(trainer.callback_metrics[name]))

    def _require_finite(self) -> None:
        for name in sorted(self._measured):
            if not self._is_finite[name]:
                raise UserError(f"the objective {name} had no finite value: it is not defined on these samples")
