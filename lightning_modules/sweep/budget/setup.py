"""From the command of a search to a budget to its plan, with all that can be refused before anything is trained."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from lightning_modules.config.errors import UserError
from lightning_modules.sweep.budget.goal import GOAL_KEYS, Goal
from lightning_modules.sweep.budget.plan import BudgetPlan
from lightning_modules.sweep.budget.stage_settings import chosen_keys
from lightning_modules.sweep.sweep_command import SweepCommand
from lightning_modules.tracking.store import Store, find_run

SETTINGS_KEY = "compression.budget"


def sweep_kind(config: DictConfig, sweeper: str) -> str:
    """``budget`` where the config asks for one, else the sweeper's own kind."""
    node = config.get("compression")
    return "budget" if node and node.get("budget") else sweeper


def without_budget(command: SweepCommand) -> tuple[SweepCommand, list[str]]:
    """The command as the dense network's run gets it, and the words about the stages, which the attempts get too.

    Raises UserError where a key has several values: the search has one goal, and chooses by itself.
    """
    if command.swept:
        said = command.swept[0].input_line
        raise UserError(f"{said}: compression=budget is a sweep of its own, with one value of each key")
    stage_overrides = [
        word for word in command.fixed if _key(word).startswith("compression.") and not _is_setting(word)
    ]
    fixed = [
        w for w in command.fixed if not _key(w).startswith("compression") and _key(w) not in (*GOAL_KEYS, "init_from")
    ]
    return replace(command, fixed=fixed), stage_overrides


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _is_setting(word: str) -> bool:
    return _key(word) == SETTINGS_KEY or _key(word).startswith(SETTINGS_KEY + ".")


def budget_plan(
    config: DictConfig, stage_overrides: Sequence[str], store: Store, folder: Path, name: str
) -> BudgetPlan:
    """The plan of this command. Raises UserError for every mistake in its goal."""
    goal = Goal.of(config)
    for word in stage_overrides:
        if _key(word) in chosen_keys(goal):
            raise UserError(f"{word}: compression=budget chooses this value itself; leave it out")
    dense = find_run(store, str(config.init_from)).info.run_id if config.init_from else None
    return BudgetPlan(goal, dense, stage_overrides, folder, name, int(config.search.get("seed", 0)))


def check_attempt(overrides: Sequence[str]) -> list[str]:
    """Why the network of these overrides cannot be compressed so, before it is trained; called in a process of its own."""
    from lightning_modules.compression.run_compression import RunCompression
    from lightning_modules.config.command_line import compose_run, format_error
    from lightning_modules.run import build

    try:
        cfg = compose_run(overrides)
        data = build.build_data(cfg)
        build.infer_shapes(cfg, data)
        RunCompression(cfg, build.build_task(cfg, data, []), data)
        if not len(data.splits["val"]):
            return ["max_drop: it is judged on the validation part, and there is none: data.val_fraction=0.1"]
    except Exception as error:
        return [format_error(error) or f"{type(error).__name__}: {error}"]
    return []
