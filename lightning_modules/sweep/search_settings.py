"""The group `search`, typed: what a search may be told, and what is wrong with what it was told."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.config.metric_direction import check_direction

SAMPLERS = ("tpe", "cmaes", "random", "grid", "nsga2")
PRUNERS = ("none", "asha", "hyperband", "median")
DIRECTIONS = ("minimize", "maximize")
_OPTION_TYPES: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool, "str": str, "None": NoneType}
_SETTING_TYPES = {
    "space": (dict, "a range for each key"),
    "trials": (int, "a whole number"),
    "sampler": (str, "a name"),
    "sampler_options": (dict, "a value for each option"),
    "pruner": (str, "a name"),
    "pruner_options": (dict, "a value for each option"),
    "seed": (int, "a whole number"),
    "objectives": (dict, "minimize or maximize for each metric"),
    "timeout_s": ((int, float, NoneType), "a number of seconds, or null"),
}


@dataclass(frozen=True)
class SearchSettings:
    """How a search goes.

    Attributes:
        space: key -> range as it is written in YAML; `parse_space` reads it.
        trials: how many there will be in all.
        seed: of the search; what trial n tries is a function of it, n and the trials before.
        objectives: metric -> ``minimize`` or ``maximize``; empty: what the run's task monitors.
        timeout_s: no new trial is begun after so many seconds.
    """

    space: Mapping[str, Any] = field(default_factory=dict)
    trials: int = 20
    sampler: str = "tpe"
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    pruner: str = "none"
    pruner_options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    objectives: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None

    @classmethod
    def from_config(cls, node: DictConfig | Mapping[str, Any]) -> SearchSettings:
        """Raises `UserError` that lists every mistake of the node `search`."""
        raise_mistakes("in the group search", check_search(node))
        return cls(**to_plain(node))


def to_plain(node: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """The node as dicts and lists, with its interpolations resolved."""
    values = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else dict(node)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def raise_mistakes(where: str, mistakes: Iterable[str]) -> None:
    """Raise one `UserError` for all `mistakes`, each of them once; return where there is none."""
    listed = list(dict.fromkeys(mistakes))
    if listed:
        count = f"{len(listed)} mistakes" if len(listed) > 1 else "A mistake"
        raise UserError(f"{count} {where}:\n" + "\n".join(f"  {mistake}" for mistake in listed))


def check_search(node: DictConfig | Mapping[str, Any]) -> list[str]:
    """All that is wrong with the node `search`: unknown settings, values of a wrong type, names that do not exist."""
    values = to_plain(node)
    names = [setting.name for setting in fields(SearchSettings)]
    mistakes = [f"search.{key}: there is no such setting; {suggest(key, names)}" for key in values if key not in names]
    wrong = [key for key in names if key in values and not _matches(values[key], _SETTING_TYPES[key][0])]
    mistakes += [f"search.{key}: {values[key]!r} is not {_SETTING_TYPES[key][1]}" for key in wrong]
    right = {key: value for key, value in values.items() if key in names and key not in wrong}
    return mistakes + _values_out_of_range(right)


def _values_out_of_range(values: Mapping[str, Any]) -> list[str]:
    mistakes = []
    for key, names in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
        if key in values and values[key] not in names:
            mistakes.append(f"search.{key}: there is no {values[key]!r}; {suggest(values[key], names)}")
    if values.get("trials", 1) < 1:
        mistakes.append(f"search.trials: {values['trials']} is not 1 or more")
    if not 0 <= values.get("seed", 0) < 2**32:
        mistakes.append(f"search.seed: {values['seed']} is not between 0 and 2**32 - 1")
    if values.get("timeout_s") is not None and not values["timeout_s"] > 0:
        mistakes.append(f"search.timeout_s: {values['timeout_s']} is not above 0")
    objectives = values.get("objectives", {})
    for metric, direction in objectives.items():
        if direction not in DIRECTIONS:
            mistakes.append(f"search.objectives: {metric}: {direction!r}; {suggest(str(direction), DIRECTIONS)}")
        elif wrong := check_direction(f"search.objectives.{metric}", str(metric), direction, DIRECTIONS):
            mistakes.append(wrong)
    if len(objectives) > 1 and values.get("pruner", "none") != "none":
        mistakes.append(
            f"search.pruner: {values['pruner']} compares trials by one metric, and there are {len(objectives)} "
            "objectives; search.pruner=none"
        )
    return mistakes


def _matches(value: Any, kind: Any) -> bool:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)


def option_mistakes(
    where: str, constructor: Callable[..., Any], options: Mapping[str, Any], ours: Iterable[str] = ()
) -> list[str]:
    """What is wrong with `options` for the constructor, by the names and types of its signature.

    Args:
        ours: arguments that the harness gives, and the user cannot. Those that YAML cannot write, such as functions,
            are left out of themselves.
    """
    written = {name: _annotation(argument) for name, argument in inspect.signature(constructor).parameters.items()}
    kinds = {
        name: annotation.split(" | ")
        for name, annotation in written.items()
        if name not in ours and set(annotation.split(" | ")) <= _OPTION_TYPES.keys()
    }
    mistakes = []
    for name, value in options.items():
        if name not in kinds:
            mistakes.append(f"{where}.{name}: there is no such option; {suggest(name, kinds)}")
        elif not any(_matches(value, _OPTION_TYPES[kind]) for kind in kinds[name]):
            mistakes.append(f"{where}.{name}: {value!r} is not {' or '.join(kinds[name])}")
    return mistakes


def _annotation(argument: inspect.Parameter) -> str:
    return argument.annotation.__name__ if isinstance(argument.annotation, type) else str(argument.annotation)
