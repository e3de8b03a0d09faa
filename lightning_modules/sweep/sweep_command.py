"""Which sweep a command means: its overrides, what must not change when it resumes, its name, its run and its lock."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.config.moved_names import current_name
from lightning_modules.config.plain import PlainDict, flatten, to_plain
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.store import Store
from lightning_modules.tracking.tags import KIND_TAG, SWEEP_NAME_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run

_SWEEP_ONLY_GROUPS = ("sweep", "search", "hydra")
_MUTABLE_KEYS = (
    "sweep", "tracking", "loggers", "search.trials", "search.timeout_s", "hydra", "name", "cpu_threads",
    "choices", "claim", "resume", "trust", "study",
)  # fmt: skip


@dataclass(frozen=True)
class SweepCommand:
    """The overrides of a command with ``-m``.

    Attributes:
        overrides: all of them but ``sweep.…``, recorded for resuming.
        fixed: those of every trial.
        swept: those with several values, or with an interval.
    """

    overrides: list[str]
    fixed: list[str]
    swept: list[Override]

    @classmethod
    def of(cls, overrides: Sequence[str], loader: ConfigLoader) -> "SweepCommand":
        """Parse the overrides; `loader` resolves ``model=glob(*)``."""
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
        kept = [(w, o) for w, o in zip(overrides, parsed, strict=True) if _root_key(o.key_or_group) != "sweep"]
        runs = [(w, o) for w, o in kept if _root_key(o.key_or_group) not in _SWEEP_ONLY_GROUPS]
        return cls(
            [word for word, _ in kept],
            [word for word, override in runs if not override.is_sweep_override()],
            [override for _, override in runs if override.is_sweep_override()],
        )


def _root_key(key: str) -> str:
    return key.split(".")[0].split("/")[0]


def sweep_identity(kind: str, command: SweepCommand, config: DictConfig) -> dict[str, object]:
    """What makes two commands the same sweep, with its overrides, as JSON values."""
    plain = to_plain(config, resolve=False)
    mutable = tuple(f"{key}." for key in _MUTABLE_KEYS)
    same = {key: value for key, value in flatten(plain).items() if not f"{key}.".startswith(mutable)}
    swept = {override.get_key_element(): override.get_value_string() for override in command.swept}
    plan = {"sweeper": kind, "words": command.overrides, "swept": swept, "config": same}
    return dict(json.loads(json.dumps(plan, default=str)))


def recorded_identity(store: Store, run: "Run") -> dict[str, object] | None:
    """The `sweep_identity` that the sweep's run recorded; None if it was interrupted before."""
    try:
        return dict(json.loads(artifact_path(store, run, "sweep/plan.json").read_text()))
    except UserError:
        return None


def require_same_sweep(name: str, old: PlainDict, new: PlainDict) -> None:
    """Raise UserError, with the differences, if `new` is not the same sweep as `old`."""
    if changed := identity_differences(old, new):
        raise UserError(
            f"a sweep named {name} exists with different settings; choose another name or repeat its settings:\n{changed}"
        )


def identity_differences(old: PlainDict, new: PlainDict) -> str:
    """The differences between two identities, a line each; empty if there is none."""
    changes = []
    if old["sweeper"] != new["sweeper"]:
        changes.append(f"hydra/sweeper: was {old['sweeper']}, now {new['sweeper']}")
    for part in ("swept", "config"):
        for key in sorted(old[part].keys() | new[part].keys()):
            then, now = old[part].get(key), new[part].get(key)
            if then != now and not _is_equivalent(key, key in old[part], then, now):
                was, is_now = ("null" if value is None else value for value in (then, now))
                changes.append(f"{key}: was {was}, now {is_now}")
    more = [f"… and {len(changes) - 10} more"] if len(changes) > 10 else []
    return "\n".join(f"  {change}" for change in [*changes[:10], *more])


# Settings added since earlier versions recorded sweeps, with the values that keep the former behaviour.
_DEFAULTS_OF_LATER_KEYS = {
    "channels_last": False, "cuda_graphs": False, "matmul_precision": None, "data.device": "cpu",
    "data.background": "white", "data.encoding": None,
}  # fmt: skip


def _is_equivalent(key: str, was_recorded: bool, then: object, now: object) -> bool:
    """Whether an earlier version recorded no `key`, a former name of a component, or a mode that now follows from the metric."""
    if key.endswith("_target_") and isinstance(then, str) and current_name(then) == now:
        return True
    return now == "${monitor_mode:}" or (
        not was_recorded and key in _DEFAULTS_OF_LATER_KEYS and _DEFAULTS_OF_LATER_KEYS[key] == now
    )


# --- the sweeps of a store -----------------------------------------------------------------------------------------
class SweepBusyError(UserError):
    """Another process is running this sweep."""


def sweep_folder(store: Store, name: str) -> Path:
    """The folder of a sweep's files: ``sweeps/NAME`` beside the store, or in this project's mlruns for a server."""
    return store.folder / "sweeps" / name


def check_sweep_name(name: str) -> None:
    """Raise UserError for a name that cannot be a folder's."""
    if not re.fullmatch(r"[\w][\w.-]{0,99}", name):
        raise UserError(f"sweep={name}: a name has letters, digits, '_', '-' and '.', at most 100 of them")


def find_sweep(store: Store, condition: str) -> "Run | None":
    """The run of the newest sweep that matches MLflow's filter, or None."""
    return next(_newest_sweeps(store, f" AND {condition}"), None)


def _newest_sweeps(store: Store, condition: str = "") -> "Iterator[Run]":
    return store.search_runs(f"tags.`{KIND_TAG}` = 'sweep'{condition}", "attributes.start_time DESC")


def find_sweep_to_resume(store: Store, sweep: str) -> "Run":
    """The run of ``sweep.resume=SWEEP``: a run id or its beginning, or a sweep's name. Raises UserError."""
    run = None
    if re.fullmatch(r"[0-9a-f]{6,32}", sweep):
        run = find_sweep(store, f"attributes.run_id LIKE '{sweep}%'")
    if run is None and re.fullmatch(r"[\w.-]+", sweep):
        run = find_sweep(store, f"tags.`{SWEEP_NAME_TAG}` = '{sweep}'")
    if run is None:
        names = [run.data.tags[SWEEP_NAME_TAG] for run in islice(_newest_sweeps(store), 50)]
        known = suggest(sweep, names) if names else "the store has no sweep yet"
        raise UserError(f"sweep.resume={sweep}: there is no sweep with this id or name; {known}")
    return run


def lock_sweep(folder: Path, name: str) -> FileLock:
    """Lock this sweep against other processes. Raises SweepBusyError if one is running it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise SweepBusyError(f"sweep={name}: another process is running this sweep ({folder / 'lock'})") from None
    return lock
