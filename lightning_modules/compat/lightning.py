"""What we need of Lightning beyond its public interface, and what we change in its objects at run time."""

import signal
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher as MultiProcessingLauncher
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher as SubprocessScriptLauncher

# our launchers extend both: how ranks are started stays Lightning's, how their end is noticed and reported is ours
__all__ = ["MultiProcessingLauncher", "SubprocessScriptLauncher"]


# --- signals ---------------------------------------------------------------------------------------------------
def notify_ranks_by_signal(trainer: pl.Trainer) -> None:
    """Have Lightning's handler of SIGTERM notify the ranks by signals alone.

    Its own broadcasts, too: in the middle of another collective the ranks then wait for each other for ever.
    """
    connector: Any = trainer._signal_connector

    def notify(number: int, frame: Any) -> None:
        launcher: Any = trainer.strategy.launcher
        if launcher is not None and not connector.received_sigterm:
            launcher.kill(number)
        connector.received_sigterm = True

    connector._sigterm_notifier_fn = notify


def skip_sigterm_broadcast(trainer: pl.Trainer) -> None:
    """Drop the broadcast before each batch that asks rank 0 for a signal: all ranks wait for it, and get it themselves."""
    loop: Any = trainer.fit_loop.epoch_loop
    loop._broadcast_sigterm_tensor = _do_nothing


def _do_nothing() -> None:
    pass


def restore_on_exit(trainer: pl.Trainer, action: Any) -> None:
    """Have Lightning leave `action` as the handler of SIGTERM when its fit ends, not the one that it found."""
    connector: Any = trainer._signal_connector
    connector._original_handlers[signal.SIGTERM] = action


# --- the training loop -----------------------------------------------------------------------------------------
def has_trainer(module: pl.LightningModule) -> bool:
    """Whether the module is attached to a trainer: its public `trainer` raises where it is not."""
    return module._trainer is not None


def has_combined_loader(trainer: pl.Trainer) -> bool:
    """Whether the training data were set up already, that is, whether this loader is not the training's."""
    return trainer.fit_loop._combined_loader is not None


def count_steps(trainer: pl.Trainer, steps: int) -> None:
    """Count `steps` optimizer steps of one call as Lightning does: `global_step` and the checkpoint read these counters."""
    loop: Any = trainer.fit_loop.epoch_loop
    loop._batches_that_stepped += steps - 1  # Lightning adds the one of this call
    progress = loop.manual_optimization.optim_step_progress
    for counter in (progress.total, progress.current):
        counter.ready += steps
        counter.completed += steps


def train_description(bar: RichProgressBar, epoch: int) -> str:
    """The progress bar's text of an epoch: we restart the same bar where Lightning adds a new one."""
    return bar._get_train_description(epoch)


# --- ranks -----------------------------------------------------------------------------------------------------
def start_other_ranks(launcher: SubprocessScriptLauncher) -> None:
    """Start this script once for each other rank of this machine: only `launch` does so publicly, and watches them its way."""
    launcher._call_children_scripts()


def process_group_timeout(strategy: DDPStrategy) -> float:
    """Seconds until a rank that waits for another gives up."""
    waited: timedelta | None = strategy._timeout
    assert waited is not None
    return waited.total_seconds()
