"""Hydra's side of a sweep: the sweepers and the launcher that ``-m`` finds under ``hydra/sweeper`` and ``hydra/launcher``."""

import re
import sys
from collections.abc import Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig

from lightning_modules.compat.hydra import register_plugins
from lightning_modules.config.errors import UserError
from lightning_modules.config.search_path import config_search_path, register_config_roots
from lightning_modules.config.trust import trust_packages


class GridSweeper(Sweeper):
    """Every combination of the values on the command line."""

    kind = "grid"
    trials: object = None  # of the last sweep: Hydra drops what `sweep` returns

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> object:
        """Run the sweep of these overrides to its end."""
        from lightning_modules.config.command_line import report_errors

        with report_errors():
            from lightning_modules.sweep.controller import SweepRequest, run_sweep

            assert self.config is not None and self.context is not None
            trust_packages(self.config)
            request = SweepRequest(
                self.kind, self.config, arguments, self.context.config_loader, launcher=self._chosen_launcher
            )
            GridSweeper.trials = run_sweep(request)
            return GridSweeper.trials

    def _chosen_launcher(self) -> Launcher | None:
        """The launcher of ``hydra/launcher=…``; None for the pool."""
        assert self.config is not None and self.context is not None
        target = self.config.hydra.launcher._target_
        if target.endswith(".PoolLauncher"):
            return None
        if target.endswith(".BasicLauncher"):
            raise UserError(
                "hydra/launcher=basic runs all trials in one process, and one that crashes ends the sweep: omit "
                "hydra/launcher (pool), or add hydra/sweeper=basic"
            )
        try:
            return Plugins.instance().instantiate_launcher(self.context, self.task_function, self.config)
        except RuntimeError as error:
            name = self.config.hydra.runtime.choices["hydra/launcher"]
            install = f"pip install -e '.[{name}]'"
            raise UserError(f"hydra/launcher={name}: its plugin is not installed: {install} ({error})") from error


class OptunaSweeper(GridSweeper):
    """What Optuna proposes for the search space of the group `search`."""

    kind = "optuna"


class PoolLauncher(Launcher):
    """Stands for the process pool of our sweepers, which start one trial for each slot that becomes free."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Nothing to set up: a trial is composed in its own process."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        raise UserError("hydra/launcher=pool needs hydra/sweeper=grid or optuna; use hydra/launcher=basic here")


def register() -> None:
    """Register the plugins with Hydra, which looks for them in `hydra_plugins` only."""
    register_config_roots()
    register_plugins("touchstone", sys.modules[__name__], (GridSweeper, OptunaSweeper, PoolLauncher))


def compose_multirun(overrides: Sequence[str]) -> tuple[DictConfig, ConfigLoader]:
    """The config that ``touchstone train -m OVERRIDES`` has, and its loader, for sweeps that other verbs start."""
    from hydra.core.global_hydra import GlobalHydra

    register()
    with config_search_path():
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("train", list(overrides), run_mode=RunMode.MULTIRUN)
        HydraConfig.instance().set_config(config)
    return config, loader


def expand_sweep_name() -> None:
    """Read ``sweep=NAME`` on the command line as ``sweep.name=NAME``."""
    sys.argv[1:] = [re.sub(r"^sweep=(?!\{)", "sweep.name=", word) for word in sys.argv[1:]]


def refuse_former_budget(words: Sequence[str]) -> None:
    """Raise UserError for ``compression=budget``, which ``touchstone compress`` has replaced."""
    if "compression=budget" in words:
        values = dict(word.lstrip("+").split("=", 1) for word in words if "=" in word)
        keys = ("size_ratio", "macs_ratio", "latency_ratio", "max_drop")
        goal = " ".join(f"{key}={values[key]}" for key in keys if key in values) or "size_ratio=10 max_drop=0.01"
        raise UserError(f"compression=budget is now: touchstone compress {values.get('init_from', 'RUN')} {goal}")


def refuse_multiprocess_runs(cfg: DictConfig) -> None:
    """Raise UserError for runs of several ranks under a sweeper that is not ours.

    Lightning starts the other ranks with this process's command: with ``-m`` in it, each of them would start the sweep
    again, and train with the hyper-parameters of another trial.
    """
    if HydraConfig.get().mode == RunMode.MULTIRUN and cfg.strategy.get("_target_"):
        raise UserError(
            "this hydra/sweeper does not support runs of several processes (strategy=…): their ranks would train with "
            "different hyper-parameters; omit hydra/sweeper (grid), or use hydra/sweeper=optuna"
        )


def refuse_sweep_without_m(cfg: DictConfig) -> None:
    """Raise UserError if a single run has settings of a sweep: it would be trained without them."""
    for key in ("name", "resume"):
        name = cfg.sweep.get(key)
        if name is not None and HydraConfig.get().mode != RunMode.MULTIRUN:
            raise UserError(f"sweep.{key}={name} needs -m: touchstone train -m sweep.{key}=NAME …")
