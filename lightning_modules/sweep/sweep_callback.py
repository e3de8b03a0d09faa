"""The callback of a sweep's runs: ends them when the sweep stops or a search prunes them, which it asks the journal."""

import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytorch_lightning as pl

from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict
from lightning_modules.config.signals import RunStopped


class PruningClient:
    """Reports a trial's metric to its study, and asks whether to prune the trial.

    Args:
        settings: `journal` (file of the study), `study`, `metric`, `pruner`, `options` and `max_epochs`.
        number: of the trial.
    """

    def __init__(self, settings: PlainDict, number: int) -> None:
        self.metric: str = settings["metric"]
        self._settings, self._number = settings, number
        self._trial: Any = None

    def prune(self, epoch: int, value: float) -> bool:
        """Report the metric's `value` after this epoch, counted from 0; whether to end the trial."""
        if self._trial is None:  # not before a fork: each process opens the file itself
            self._trial = self._open()
        self._trial.report(value, epoch + 1)
        return bool(self._trial.should_prune())

    def _open(self) -> object:
        import optuna

        from lightning_modules.compat.optuna import trial_in_storage
        from lightning_modules.sweep.optuna_plan import make_pruner, open_journal

        study = optuna.load_study(
            study_name=self._settings["study"],
            storage=open_journal(Path(self._settings["journal"])),
            sampler=optuna.samplers.RandomSampler(),  # unused
            pruner=make_pruner(self._settings["pruner"], self._settings["options"], self._settings["max_epochs"]),
        )
        return trial_in_storage(study, self._number)


class SweepCallback(pl.Callback):
    """Ends a run after an epoch, with its checkpoint written, when its sweep stops or a search prunes it.

    Rank 0 decides for all ranks. Raises `RunStopped` at the end of `fit`, and UserError if an objective was measured but
    never had a finite value: such a trial cannot be compared.

    Args:
        stop: the file whose presence stops the sweep.
        sweep_pid: of the process that runs the sweep, on `host`; its runs end with it.
        objectives: the metrics by which trials are compared.
    """

    def __init__(
        self,
        stop: Path,
        sweep_pid: int,
        host: str,
        pruning: PruningClient | None = None,
        objectives: Sequence[str] = (),
    ) -> None:
        self._stop, self._pruning = stop, pruning
        self._objectives = set(objectives)
        self._is_finite: dict[str, bool] = {}  # of the objectives that were measured: whether they ever were
        self._sweep_pid = sweep_pid if host == platform.node() else None
        self._reason = ""
        self._value: float | None = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if self._pruning is not None:
            self._value = float(trainer.callback_metrics.get(self._pruning.metric, math.nan))
        self._record_objectives(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        reason = self._stop_reason(trainer.current_epoch) if trainer.is_global_zero else ""
        last = trainer.max_epochs is not None and trainer.current_epoch + 1 >= trainer.max_epochs > 0
        self._reason = trainer.strategy.broadcast("" if last else reason)
        if self._reason:
            trainer.should_stop = True  # before the checkpoint callbacks, which come later

    def _stop_reason(self, epoch: int) -> str:
        if self._pruning is not None and self._value is not None:
            value, self._value = self._value, None
            if math.isfinite(value) and self._pruning.prune(epoch, value):
                return "PRUNED"
        return "STOPPED" if self._stop.exists() or self._is_orphan() else ""

    def _is_orphan(self) -> bool:
        return self._sweep_pid is not None and not psutil.pid_exists(self._sweep_pid)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._reason:
            raise RunStopped(self._reason)
        self.on_test_end(trainer, pl_module)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._record_objectives(trainer)
        for name, is_finite in sorted(self._is_finite.items()):
            if not is_finite:
                raise UserError(f"the objective {name} has no finite value on this data")

    def _record_objectives(self, trainer: pl.Trainer) -> None:
        for name in self._objectives & trainer.callback_metrics.keys():
            value = float(trainer.callback_metrics[name])
            self._is_finite[name] = self._is_finite.get(name, False) or math.isfinite(value)
