"""The config group `search`: its settings with their bounds, and every mistake in them at once."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Annotated, Literal, TypeVar, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Lt
from omegaconf import DictConfig

from lightning_modules.config.bounds import Count, mismatch
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.config.metric_direction import check_direction
from lightning_modules.config.plain import PlainDict, to_plain

T = TypeVar("T")
Sampler = Literal["tpe", "cmaes", "random", "grid", "nsga2"]
Pruner = Literal["none", "asha", "hyperband", "median"]
SAMPLERS: tuple[str, ...] = get_args(Sampler)
PRUNERS: tuple[str, ...] = get_args(Pruner)
DIRECTIONS = ("minimize", "maximize")
_PLAIN_TYPES: dict[str, object] = {kind.__name__: kind for kind in (int, float, bool, str)} | {"None": type(None)}


@dataclass(frozen=True)
class SearchSettings:
    """The settings of a search.

    Attributes:
        space: key -> range as it is written in YAML; `parse_space` reads it.
        trials: the total number.
        seed: of the search; the values of trial n are a function of it, n and the earlier trials.
        objectives: metric -> ``minimize`` or ``maximize``; empty: what the run's task monitors.
        timeout_s: no new trial starts after so many seconds.
    """

    space: Mapping[str, object] = field(default_factory=dict)
    trials: Count = 20
    sampler: Sampler = "tpe"
    sampler_options: Mapping[str, object] = field(default_factory=dict)
    pruner: Pruner = "none"
    pruner_options: Mapping[str, object] = field(default_factory=dict)
    seed: Annotated[int, Ge(0), Lt(2**32)] = 0
    objectives: PlainDict = field(default_factory=dict)
    timeout_s: Annotated[float, Gt(0)] | None = None

    @classmethod
    def from_config(cls, node: DictConfig | Mapping[str, object]) -> "SearchSettings":
        """Raises UserError that lists every mistake of the node `search`."""
        raise_mistakes("in the group search", check_search(node))
        return cls(**to_plain(node))


def raise_mistakes(where: str, mistakes: Iterable[str]) -> None:
    """Raise one UserError for all `mistakes`, each of them once; return if there is none."""
    listed = list(dict.fromkeys(mistakes))
    if listed:
        count = f"{len(listed)} mistakes" if len(listed) > 1 else "A mistake"
        raise UserError(f"{count} {where}:\n" + "\n".join(f"  {mistake}" for mistake in listed))


def check_search(node: DictConfig | Mapping[str, object]) -> list[str]:
    """Every mistake in the node `search`: unknown settings, wrong types, values out of bounds, contradictions."""
    values = to_plain(node)
    mistakes = setting_mistakes("search", values, get_type_hints(SearchSettings, include_extras=True))
    objectives = values.get("objectives")
    objectives = objectives if isinstance(objectives, Mapping) else {}
    for metric, direction in objectives.items():
        key = f"search.objectives.{metric}"
        if direction not in DIRECTIONS:
            mistakes.append(f"{key}={direction!r}: unknown value; {suggest(str(direction), DIRECTIONS)}")
        elif wrong := check_direction(key, str(metric), direction, DIRECTIONS):
            mistakes.append(wrong)
    pruner = values.get("pruner", "none")
    if len(objectives) > 1 and pruner in PRUNERS and pruner != "none":
        mistakes.append(
            f"search.pruner: {pruner} compares trials by one metric, and there are {len(objectives)} objectives; "
            "search.pruner=none"
        )
    return mistakes


def setting_mistakes(
    group: str, values: Mapping[str, object], hints: Mapping[str, object], noun: str = "setting"
) -> list[str]:
    """The keys of `group` that have no hint, and the values that do not fit theirs."""
    mistakes = []
    for key, value in values.items():
        if key not in hints:
            mistakes.append(f"{group}.{key}: there is no such {noun}; {suggest(key, hints)}")
        elif wrong := mismatch(value, hints[key]):
            unknown = "unknown value; " * (get_origin(hints[key]) is Literal)
            mistakes.append(f"{group}.{key}={value!r}: {unknown}{wrong}")
    return mistakes


def construct(where: str, constructor: Callable[..., T], options: PlainDict, injected: PlainDict) -> T:
    """Call `constructor` with `options`, of the key `where`, and with arguments that the user cannot give.

    Raises UserError for an option that the constructor does not have, of a wrong type, or that it refuses.
    """
    texts = {  # not all of Optuna's annotations can be evaluated
        name: inspect.formatannotation(parameter.annotation).strip("'").split(" | ")
        for name, parameter in inspect.signature(constructor).parameters.items()
        if name not in injected
    }
    plain = {name: kinds for name, kinds in texts.items() if set(kinds) <= _PLAIN_TYPES.keys()}
    hints = {name: reduce(or_, (_PLAIN_TYPES[kind] for kind in kinds)) for name, kinds in plain.items()}
    raise_mistakes("in the search", setting_mistakes(where, options, hints, "option"))
    try:
        return constructor(**options, **injected)
    except ValueError as error:
        raise UserError(f"A mistake in the search:\n  {where}: {error}") from error
