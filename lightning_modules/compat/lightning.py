"""What we need of Lightning beyond its public interface, and what we change in its objects at run time."""

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.distributed import DistributedSamplerWrapper
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.overrides.distributed import UnrepeatedDistributedSampler, UnrepeatedDistributedSamplerWrapper
from pytorch_lightning.plugins import LayerSync, Precision
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher as MultiProcessingLauncher
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher as SubprocessScriptLauncher
from pytorch_lightning.strategies.launchers.launcher import _Launcher as Launcher
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

# our launchers extend both: how ranks are started stays Lightning's, how their end is noticed and reported is ours
__all__ = ["Launcher", "MultiProcessingLauncher", "SubprocessScriptLauncher"]


class ExtensibleDDP(DDPStrategy):
    """Lightning's DDP with the steps that we override as public methods: Lightning has no public ones for them."""

    def choose_launcher(self, start_method: str) -> Launcher:
        """The launcher that starts the ranks."""
        raise NotImplementedError

    def _configure_launcher(self) -> None:
        environment = self.cluster_environment
        if environment is not None and environment.creates_processes_externally:
            self._start_method = "popen"  # the ranks are there: one for each task of a Slurm job
        self._launcher = self.choose_launcher(self._start_method)

    def wrap_model(self, model: nn.Module) -> DistributedDataParallel:
        """The module in torch's DDP."""
        return super()._setup_model(model)

    def _setup_model(self, model: nn.Module) -> DistributedDataParallel:
        return self.wrap_model(model)

    def register_hooks(self) -> None:
        """Register communication hooks; also called on CPU, where Lightning leaves its own out."""
        super()._register_ddp_hooks()

    def _register_ddp_hooks(self) -> None:
        self.register_hooks()

    @property
    def layer_sync(self) -> LayerSync | None:
        """The plugin that `trainer.sync_batchnorm` chose: Lightning's connector sets it, and it is GPU-only."""
        return self._layer_sync

    @layer_sync.setter
    def layer_sync(self, plugin: LayerSync | None) -> None:
        self._layer_sync = plugin


# --- signals ---------------------------------------------------------------------------------------------------
def notify_ranks_by_signal(trainer: pl.Trainer) -> None:
    """Have Lightning's handler of SIGTERM notify the ranks by signals alone.

    Its own broadcasts, too: in the middle of another collective the ranks then wait for each other for ever.
    """
    connector: Any = trainer._signal_connector

    def notify(number: int, frame: FrameType | None) -> None:
        launcher = trainer.strategy.launcher
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
    connector = trainer._signal_connector
    connector._original_handlers[signal.SIGTERM] = action


# --- the training loop -----------------------------------------------------------------------------------------
def has_trainer(module: pl.LightningModule) -> bool:
    """Whether the module is attached to a trainer: its public `trainer` raises where it is not."""
    return module._trainer is not None


def has_combined_loader(trainer: pl.Trainer) -> bool:
    """Whether the training data were set up already, that is, whether this loader is not the training's."""
    return trainer.fit_loop._combined_loader is not None


def saves_within_epochs(checkpoint: ModelCheckpoint) -> bool:
    """Whether a checkpoint callback saves every so many training steps: Lightning keeps the setting to itself."""
    return checkpoint._every_n_train_steps > 0


def count_steps(trainer: pl.Trainer, steps: int) -> None:
    """Count `steps` optimizer steps of one call as Lightning does: `global_step` and the checkpoint read these counters."""
    loop = trainer.fit_loop.epoch_loop
    loop._batches_that_stepped += steps - 1  # Lightning adds the one of this call
    progress = loop.manual_optimization.optim_step_progress
    for counter in (progress.total, progress.current):
        counter.ready += steps
        counter.completed += steps


def set_metrics(trainer: pl.Trainer, values: Mapping[str, Tensor]) -> None:
    """Set metrics for callbacks as `log_dict` ends up doing: that takes milliseconds, and is forbidden in some hooks."""
    trainer.callback_metrics.update(values)


def insert_callback(trainer: pl.Trainer, callback: Callback) -> None:
    """Add a callback before all others once the trainer exists: a strategy has callbacks of its own, a Trainer no method."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # set by Lightning's connector
    callbacks.insert(0, callback)


def replace_clip_by_norm(plugin: Precision, clip: Callable[..., None]) -> None:
    """Have the precision plugin clip gradients by `clip(optimizer, value)`: the norm is that over the parts of all ranks."""
    plugin.clip_grad_by_norm = clip  # type: ignore[method-assign]


def restore_clip_by_norm(plugin: Precision) -> None:
    """Undo `replace_clip_by_norm`."""
    del plugin.clip_grad_by_norm  # type: ignore[attr-defined, unused-ignore]


def sampler_of(loader: object) -> Any:
    """What chooses the samples of a loader: in its batch sampler, if it has one."""
    return getattr(getattr(loader, "batch_sampler", None), "sampler", getattr(loader, "sampler", None))


def repeat_no_sample(loader: object) -> None:
    """Have the sampler that Lightning has put into an evaluation loader give each sample to one rank, once.

    Lightning's own repeats samples until all ranks have equally many; its prediction uses the classes that do not.
    """
    sampler = sampler_of(loader)
    classes: dict[type, type] = {
        DistributedSampler: UnrepeatedDistributedSampler,
        DistributedSamplerWrapper: UnrepeatedDistributedSamplerWrapper,
    }
    if type(sampler) in classes:
        sampler.__class__ = classes[type(sampler)]
        sampler.num_samples = len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas))
        sampler.total_size = len(sampler.dataset)


# --- ranks -----------------------------------------------------------------------------------------------------
def start_other_ranks(launcher: SubprocessScriptLauncher) -> None:
    """Start this script once for each other rank of this machine: only `launch` does so publicly, and watches them its way."""
    launcher._call_children_scripts()


def process_group_timeout(strategy: DDPStrategy) -> float:
    """Seconds until a rank that waits for another gives up."""
    waited: timedelta | None = strategy._timeout
    assert waited is not None
    return waited.total_seconds()


def launched_strategy(launcher: MultiProcessingLauncher) -> Any:
    """The strategy whose ranks the launcher starts."""
    return launcher._strategy


def set_rank_command(words: Sequence[str]) -> None:
    """Have the other ranks of this process started by the command `words`: Lightning repeats that of the main script.

    It reads `sys.argv`, and where `__main__` was started by ``-m`` its spec.
    """
    sys.argv = list(words)
    sys.modules["__main__"].__spec__ = None
