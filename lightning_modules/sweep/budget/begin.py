"""From the command of a search to a budget to its plan, with all that can be refused before anything is trained."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from lightning_modules.errors import UserError
from lightning_modules.sweep.budget.goal import KEYS, Goal
from lightning_modules.sweep.budget.plan import BudgetPlan
from lightning_modules.sweep.budget.stages import chosen_keys
from lightning_modules.sweep.command import Command
from lightning_modules.tracking.store import Store, find_run

SETTINGS = "compression.budget"


def kind_of(config: DictConfig, sweeper: str) -> str:
    """``budget`` where the config asks for one, else the sweeper's own kind."""
    node = config.get("compression")
    return "budget" if node and node.get("budget") else sweeper


def without_budget(command: Command) -> tuple[Command, list[str]]:
    """The command as the dense network's run gets it, and the words about the stages, which the attempts get too.

    Raises UserError where a key has several values: the search has one goal, and chooses by itself.
    """
    if command.swept:
        said = command.swept[0].input_line
        raise UserError(f"{said}: compression=budget is a sweep of its own, with one value of each key")
    told = [word for word in command.fixed if _key(word).startswith("compression.") and not _is_setting(word)]
    fixed = [w for w in command.fixed if not _key(w).startswith("compression") and _key(w) not in (*KEYS, "init_from")]
    return replace(command, fixed=fixed), told


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _is_setting(word: str) -> bool:
    return _key(word) == SETTINGS or _key(word).startswith(SETTINGS + ".")


def budget_plan(config: DictConfig, told: Sequence[str], store: Store, folder: Path, name: str) -> BudgetPlan:
    """The plan of this command. Raises UserError for every mistake in its goal."""
    goal = Goal.of(config)
    for word in told:
        if _key(word) in chosen_keys(goal):
            raise UserError(f"{word}: compression=budget chooses this value itself; leave it out")
    dense = find_run(store, str(config.init_from)).info.run_id if config.init_from else None
    return BudgetPlan(goal, dense, told, folder, name, int(config.search.get("seed", 0)))


def try_attempt(words: Sequence[str]) -> list[str]:
    """Why the network of these overrides cannot be compressed so, before it is trained; called in a process of its own."""
    from lightning_modules import build
    from lightning_modules.command_line import compose_run, message_of
    from lightning_modules.compress import Compression

    try:
        cfg = compose_run(words)
        data = build.build_data(cfg)
        build.fill_from_data(cfg, data)
        Compression(cfg, build.build_task(cfg, data, []), data)
        if not len(data.splits["val"]):
            return ["max_drop: it is judged on the validation part, and there is none: data.val_fraction=0.1"]
    except Exception as error:
        return [message_of(error) or f"{type(error).__name__}: {error}"]
    return []
