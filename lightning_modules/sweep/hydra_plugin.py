"""Hydra's side of a sweep: the two sweepers and the launcher that ``-m`` finds under ``hydra/sweeper`` and ``hydra/launcher``."""

import re
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig

from lightning_modules.compat.hydra import register_plugins


class GridSweeper(Sweeper):
    """Every combination of the values on the command line."""

    kind = "grid"
    # what a verb that makes its own sweep says beside the command: its plan, tags of the sweep's run, how to go on
    plan: Any = None
    tags: Mapping[str, str] = MappingProxyType({})
    resume_command = ""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep that these overrides say to its end."""
        from lightning_modules.config.command_line import report_errors

        with report_errors():
            from lightning_modules.sweep.controller import run_sweep

            return run_sweep(self, arguments)

    def chosen_launcher(self) -> Launcher | None:
        """The launcher of ``hydra/launcher=…``; None for the pool, which takes jobs one by one."""
        assert self.config is not None and self.context is not None
        if self.config.hydra.launcher._target_.endswith(".PoolLauncher"):
            return None
        self._refuse_this_process()
        try:
            return Plugins.instance().instantiate_launcher(self.context, self.task_function, self.config)
        except RuntimeError as error:
            from lightning_modules.config.errors import UserError

            name = self.config.hydra.runtime.choices["hydra/launcher"]
            install = f"pip install -e '.[{name}]'"
            raise UserError(f"hydra/launcher={name}: its plugin is not installed: {install} ({error})") from error

    def _refuse_this_process(self) -> None:
        from lightning_modules.config.errors import UserError

        assert self.config is not None
        if self.config.hydra.launcher._target_.endswith(".BasicLauncher"):
            raise UserError(
                "hydra/launcher=basic has all runs in one process, where a run that dies takes the sweep with it: leave "
                "hydra/launcher out (pool), or take hydra/sweeper=basic with it"
            )


class OptunaSweeper(GridSweeper):
    """What Optuna proposes, as the group `search` says."""

    kind = "optuna"


class PoolLauncher(Launcher):
    """The pool of warm processes; only our own sweepers feed it, one job for each slot that gets free."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Needs nothing: a job is composed in its own process."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        from lightning_modules.config.errors import UserError

        raise UserError("hydra/launcher=pool works with hydra/sweeper=grid or optuna; choose hydra/launcher=basic here")


def register() -> None:
    """Make the plugins known to Hydra, which takes them only by a name in `hydra_plugins`: this module gets one there."""
    register_plugins("touchstone", sys.modules[__name__], (GridSweeper, OptunaSweeper, PoolLauncher))


def expand_sweep_name() -> None:
    """Take ``sweep=NAME`` on the command line for ``sweep.name=NAME``."""
    sys.argv[1:] = [re.sub(r"^sweep=(?!\{)", "sweep.name=", word) for word in sys.argv[1:]]


def refuse_multiprocess_runs(cfg: DictConfig) -> None:
    """Raise UserError for several processes a run under a sweeper that is not ours.

    Lightning starts the other ranks by this process's command: with ``-m`` in it each of them begins the sweep anew, and
    trains with the hyper-parameters of another trial, without a word.
    """
    if HydraConfig.get().mode == RunMode.MULTIRUN and cfg.strategy.get("_target_"):
        from lightning_modules.config.errors import UserError

        raise UserError(
            "several processes a run (strategy=…) and this hydra/sweeper do not go together: its ranks would train with "
            "different hyper-parameters; leave hydra/sweeper out (grid), or choose hydra/sweeper=optuna"
        )


def refuse_sweep_without_m(cfg: DictConfig) -> None:
    """Raise UserError where one run is told to be a sweep: it would be trained with the default settings."""
    given = {key: cfg.sweep.get(key) for key in ("name", "resume")}
    for key, name in given.items():
        if name is not None and HydraConfig.get().mode != RunMode.MULTIRUN:
            from lightning_modules.config.errors import UserError

            raise UserError(f"sweep.{key}={name}: this is for sweeps, which -m makes: train.py -m sweep.{key}=NAME …")


def refuse_budget(cfg: DictConfig) -> None:
    """Raise UserError where a search to a budget would be taken for one run: by ``hydra.mode``, or by another sweeper."""
    if cfg.get("compression") and cfg.compression.get("budget"):
        from lightning_modules.config.errors import UserError

        raise UserError("compression=budget is a sweep of its own: leave hydra.mode and hydra/sweeper out")
