"""The command of a sweep, taken apart: what each of its runs gets, what varies, and what must not change on the way."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from lightning_modules.config.errors import UserError
from lightning_modules.config.flatten import flatten

_SWEEP_ONLY_GROUPS = ("sweep", "search", "hydra")
_MUTABLE_KEYS = (
    "sweep", "tracking", "search.trials", "search.timeout_s", "compression.budget", "hydra", "name", "cpu_threads",
    "choices", "claim", "resume",
)  # fmt: skip


@dataclass(frozen=True)
class SweepCommand:
    """The overrides of a command with ``-m``.

    Attributes:
        words: all of them but ``sweep.…``: what is told again when the sweep goes on.
        fixed: those that every run gets.
        swept: those with several values, or with an interval.
    """

    overrides: list[str]
    fixed: list[str]
    swept: list[Override]

    @classmethod
    def of(cls, overrides: Sequence[str], loader: Any) -> "SweepCommand":
        """Take the overrides apart; `loader` is Hydra's config loader, for ``model=glob(*)``."""
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


def sweep_identity(kind: str, command: SweepCommand, config: DictConfig) -> dict[str, Any]:
    """What makes two commands the same sweep, as JSON knows it, with the words to tell it again."""
    plain: Any = OmegaConf.to_container(config, resolve=False)
    same = {key: value for key, value in flatten(plain).items() if not _is_mutable(key)}
    swept = {override.get_key_element(): override.get_value_string() for override in command.swept}
    plan = {"sweeper": kind, "words": command.overrides, "swept": swept, "config": same}
    return dict(json.loads(json.dumps(plan, default=str)))


def _is_mutable(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in _MUTABLE_KEYS)


def require_same_sweep(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise UserError, with the differences, where `new` is not the sweep that `old` was."""
    if told := identity_differences(old, new):
        raise UserError(f"sweep={name} is another sweep: choose another name, or tell it as it was:\n{told}")


def identity_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between two plans as `plan_of` makes them, a line each; empty where nothing does."""
    changes = []
    if old["sweeper"] != new["sweeper"]:
        changes.append(f"hydra/sweeper: {old['sweeper']} then, {new['sweeper']} now")
    for part in ("swept", "config"):
        for key in sorted(old[part].keys() | new[part].keys()):
            then, now = old[part].get(key), new[part].get(key)
            if then != now and not _is_equivalent(key, key in old[part], now):
                changes.append(f"{key}: {_format_value(then)} then, {_format_value(now)} now")
    more = [f"… and {len(changes) - 10} more"] if len(changes) > 10 else []
    return "\n".join(f"  {change}" for change in [*changes[:10], *more])


# Settings that came after sweeps were recorded, with the values that keep what was done before.
_DEFAULTS_OF_LATER_KEYS = {
    "channels_last": False, "cuda_graphs": False, "matmul_precision": None, "data.device": "cpu",
    "data.background": "white", "data.encoding": None,
}  # fmt: skip


def _is_equivalent(key: str, was_recorded: bool, now: Any) -> bool:
    """Whether an earlier version recorded nothing for `key`, or a mode that now follows from the metric beside it."""
    return now == "${monitor_mode:}" or (
        not was_recorded and key in _DEFAULTS_OF_LATER_KEYS and _DEFAULTS_OF_LATER_KEYS[key] == now
    )


def _format_value(value: Any) -> str:
    return "nothing" if value is None else str(value)
