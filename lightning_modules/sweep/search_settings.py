"""The config group `search`: its settings with their bounds, and every mistake in them at once."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args

from annotated_types import Ge, Gt, Lt
from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.config.metric_direction import check_direction

T = TypeVar("T")
Sampler = Literal["tpe", "cmaes", "random", "grid", "nsga2"]
Pruner = Literal["none", "asha", "hyperband", "median"]
SAMPLERS: tuple[str, ...] = get_args(Sampler)
PRUNERS: tuple[str, ...] = get_args(Pruner)
DIRECTIONS = ("minimize", "maximize")
_OPTION_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,), "float": (int, float), "bool": (bool,), "str": (str,), "None": (NoneType,)
}  # fmt: skip


@dataclass(frozen=True, config={"extra": "forbid", "strict": True})
class SearchSettings:
    """The settings of a search.

    Attributes:
        space: key -> range as it is written in YAML; `parse_space` reads it.
        trials: the total number.
        seed: of the search; the values of trial n are a function of it, n and the earlier trials.
        objectives: metric -> ``minimize`` or ``maximize``; empty: what the run's task monitors.
        timeout_s: no new trial starts after so many seconds.
    """

    space: Mapping[str, Any] = field(default_factory=dict)
    trials: Annotated[int, Ge(1)] = 20
    sampler: Sampler = "tpe"
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    pruner: Pruner = "none"
    pruner_options: Mapping[str, Any] = field(default_factory=dict)
    seed: Annotated[int, Ge(0), Lt(2**32)] = 0
    objectives: Mapping[str, Literal["minimize", "maximize"]] = field(default_factory=dict)
    timeout_s: Annotated[float, Gt(0)] | None = None

    @classmethod
    def from_config(cls, node: DictConfig | Mapping[str, Any]) -> SearchSettings:
        """Raises UserError that lists every mistake of the node `search`."""
        raise_mistakes("in the group search", check_search(node))
        return cls(**to_plain(node))


def to_plain(node: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """The node as dicts and lists, with its interpolations resolved."""
    values = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else dict(node)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def raise_mistakes(where: str, mistakes: Iterable[str]) -> None:
    """Raise one UserError for all `mistakes`, each of them once; return if there is none."""
    listed = list(dict.fromkeys(mistakes))
    if listed:
        count = f"{len(listed)} mistakes" if len(listed) > 1 else "A mistake"
        raise UserError(f"{count} {where}:\n" + "\n".join(f"  {mistake}" for mistake in listed))


def check_search(node: DictConfig | Mapping[str, Any]) -> list[str]:
    """Every mistake in the node `search`: unknown settings, wrong types, values out of bounds, contradictions."""
    values = to_plain(node)
    try:
        SearchSettings(**values)
        mistakes = []
    except ValidationError as error:
        mistakes = [_message(detail) for detail in error.errors()]
    objectives = values.get("objectives")
    objectives = objectives if isinstance(objectives, Mapping) else {}
    for metric, direction in objectives.items():
        if direction in DIRECTIONS:
            wrong = check_direction(f"search.objectives.{metric}", str(metric), direction, DIRECTIONS)
            mistakes += [wrong] if wrong else []
    pruner = values.get("pruner", "none")
    if len(objectives) > 1 and pruner in PRUNERS and pruner != "none":
        mistakes.append(
            f"search.pruner: {pruner} compares trials by one metric, and there are {len(objectives)} objectives; "
            "search.pruner=none"
        )
    return mistakes


def _message(detail: ErrorDetails) -> str:
    """One error of pydantic as a message about a key of the config."""
    key, value = f"search.{'.'.join(map(str, detail['loc']))}", detail["input"]
    if detail["type"] == "unexpected_keyword_argument":
        names = [setting.name for setting in dataclasses.fields(SearchSettings)]
        return f"{key}: there is no such setting; {suggest(str(detail['loc'][0]), names)}"
    if detail["type"] == "literal_error":
        options = {"sampler": SAMPLERS, "pruner": PRUNERS}.get(str(detail["loc"][0]), DIRECTIONS)
        return f"{key}={value!r}: unknown value; {suggest(str(value), options)}"
    expected = detail["msg"].replace("Input should be", "expected").replace("a valid integer", "an integer")
    return f"{key}={value!r}: {expected.replace('valid ', '')}"


def construct(where: str, constructor: Callable[..., T], options: Mapping[str, Any], injected: Mapping[str, Any]) -> T:
    """Call `constructor` with `options`, of the key `where`, and with arguments that the user cannot give.

    Raises UserError for an option that the constructor does not have, of a wrong type, or that it refuses.
    """
    raise_mistakes("in the search", option_mistakes(where, constructor, options, injected))
    try:
        return constructor(**options, **injected)
    except ValueError as error:
        raise UserError(f"A mistake in the search:\n  {where}: {error}") from error


def option_mistakes(
    where: str, constructor: Callable[..., Any], options: Mapping[str, Any], injected: Iterable[str]
) -> list[str]:
    """Every mistake in `options`, by the names of the constructor's parameters and those of their types that YAML has."""
    types: dict[str, list[str]] = {}
    for name, parameter in inspect.signature(constructor).parameters.items():
        hint = parameter.annotation
        kinds = (hint.__name__ if isinstance(hint, type) else str(hint)).split(" | ")
        if name not in injected and set(kinds) <= _OPTION_TYPES.keys():
            types[name] = kinds
    mistakes = []
    for name, value in options.items():
        if name not in types:
            mistakes.append(f"{where}.{name}: there is no such option; {suggest(name, types)}")
        elif type(value) not in [kind for name in types[name] for kind in _OPTION_TYPES[name]]:
            mistakes.append(f"{where}.{name}={value!r}: expected {' or '.join(types[name])}")
    return mistakes
