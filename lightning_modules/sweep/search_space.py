"""The space of a search: the keys of the config that it varies and their ranges, from YAML and the command line.

Longer than 200 lines: parsing a range, checking it and describing it belong together.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, TypeAlias

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Sweep
from omegaconf import DictConfig

from lightning_modules.compat.hydra import convert_value
from lightning_modules.config.errors import UserError, first_line, suggest
from lightning_modules.config.plain import PlainDict, to_plain
from lightning_modules.sweep.search_settings import raise_mistakes

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Space: TypeAlias = "dict[str, BaseDistribution]"

_BARE = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)  # Hydra reads other letters only in quotes
_NOT_TEXT = ("null", "true", "false", "nan", "inf")
_NUMERIC = ("low", "high", "step", "log")
FIELDS = {"float": _NUMERIC, "int": _NUMERIC, "categorical": ("choices",)}
_EXAMPLE = "{type: float, low: 1e-4, high: 1e-1, log: true}"
_NOT_SEARCHED = ("search", "sweep", "hydra", "tracking")


def parse_space(node: DictConfig | Mapping[str, object], overrides: Sequence[str]) -> Space:
    """Return key -> distribution, sorted by key.

    Args:
        node: `search.space`: key -> range (see `range_mistakes`).
        overrides: of the command line. A sweep (``a,b``, ``choice``, ``range``, ``interval``) adds a
            key or replaces the one in `node`; a fixed value removes the key from the space.
    Raises:
        UserError: lists every mistake, also an empty space.
    """
    swept, fixed, mistakes = _parse_overrides(overrides)
    specs = {key: spec for key, spec in to_plain(node).items() if key.lstrip("+") not in fixed}
    specs = {key: spec for key, spec in specs.items() if key.lstrip("+") not in {name.lstrip("+") for name in swept}}
    specs |= swept
    for key, spec in specs.items():
        mistakes += [f"{key}: {mistake}" for mistake in range_mistakes(spec)]
    if not specs and not mistakes:
        mistakes.append(
            "the search space is empty: choose one (search=classification) or give ranges, "
            "as in 'optimizer.lr=tag(log,interval(1e-4,1e-1))'"
        )
    raise_mistakes("in the search space", mistakes)
    return {key: to_distribution(specs[key]) for key in sorted(specs)}


def _parse_overrides(overrides: Sequence[str]) -> tuple[dict[str, object], set[str], list[str]]:
    """The ranges by key, the keys with a fixed value, and the mistakes."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    swept: dict[str, object] = {}
    fixed, mistakes = set(), []
    parser = OverridesParser.create()
    for word in overrides:
        try:
            override = parser.parse_override(word)
            if override.is_sweep_override():
                swept[override.get_key_element()] = spec_of(override)
            else:
                fixed.add(override.key_or_group)
        except (HydraException, UserError) as error:
            mistakes.append(f"{word}: {first_line(error)}")
    return swept, fixed, mistakes


def check_keys(space: Space, fixed: Sequence[str]) -> None:
    """Raise UserError for every key that the config does not have and every option that a group does not have.

    Args:
        fixed: the overrides of every trial: the keys are looked up in a config that has them, and those below a searched
            group in every option of it.
    """
    from lightning_modules.config.command_line import is_group, override_mistakes

    mistakes = [f"{key}: a search cannot vary this" for key in space if _root_key(key) in _NOT_SEARCHED]
    groups = {
        key: [str(choice) for choice in getattr(dist, "choices", ["(a range of numbers)"])]
        for key, dist in space.items()
        if is_group(key)
    }
    keys = [key for key in space if key not in groups and _root_key(key) not in _NOT_SEARCHED]
    below = {group: [key for key in keys if key.lstrip("+").startswith(group + ".")] for group in groups}
    free = [key for key in keys if not any(key in names for names in below.values())]
    with _preserve_hydra_state():
        for group, options in groups.items():
            found = override_mistakes([*fixed, f"{group}={','.join(options)}"], "train")
            mistakes += found
            for option in options if below[group] and not found else ():
                words = [*fixed, f"{group}={option}", *(f"{key}=0" for key in below[group])]
                problems = override_mistakes(words, "train")
                mistakes += [f"{problem} (with {group}={option})" for problem in problems]
        mistakes += override_mistakes([*fixed, *(f"{key}=0" for key in free)], "train")
    mistakes = [re.sub(r"^(\S+)=0:", r"\1:", mistake) for mistake in mistakes]  # the 0 stands for any value
    raise_mistakes("in the search space", mistakes)


def _root_key(key: str) -> str:
    return re.split(r"[./]", key.lstrip("+"))[0]


@contextmanager
def _preserve_hydra_state() -> Iterator[None]:
    """Restore Hydra's global state: composing a config replaces it, and the sweep runs inside Hydra."""
    from hydra.core.global_hydra import GlobalHydra

    before = GlobalHydra.instance().hydra
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = before


def to_overrides(params: Mapping[str, object]) -> list[str]:
    """``KEY=VALUE`` for each value of a trial, which Hydra parses as exactly the same value and type.

    Raises UserError for a value that is not a number, string, bool or None.
    """
    return [f"{key}={_format_value(key, value)}" for key, value in params.items()]


def _format_value(key: str, value: object) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if not isinstance(value, str):
        raise UserError(f"{key}: {value!r} is not a scalar (number, string, true, false, null)")
    if _BARE.fullmatch(value) and value.lower() not in _NOT_TEXT:
        return value
    return QuotedString(value, Quote.single).with_quotes()


def space_signature(space: Space) -> str:
    """The space as JSON, independent of the order of its keys."""
    from optuna.distributions import distribution_to_json

    return json.dumps({key: json.loads(distribution_to_json(dist)) for key, dist in space.items()}, sort_keys=True)


def describe_difference(old: str, new: str) -> str:
    """One line for each key in which two signatures differ; empty if they are equal."""
    before, after = json.loads(old), json.loads(new)
    lines = []
    for key in sorted(before.keys() | after.keys()):
        was, now = (_described(found[key]) if key in found else "not searched" for found in (before, after))
        if was != now:
            lines.append(f"{key}: was {was}, now {now}")
    return "\n".join(lines)


def _described(distribution: PlainDict) -> str:
    about = distribution["attributes"]
    if "choices" in about:
        return "one of " + ", ".join(json.dumps(choice) for choice in about["choices"])
    noun = "integer" if distribution["name"].startswith("Int") else "number"
    extra = ", log" * about["log"] + (f", step {about['step']}" if about["step"] not in (None, 1) else "")
    return f"{noun} from {about['low']} to {about['high']}{extra}"


# --- one range of the space ----------------------------------------------------------------------------------------


def range_mistakes(spec: object) -> list[str]:
    """All mistakes in a range as it is written in YAML: a list of choices, or a mapping with its `type`."""
    if isinstance(spec, list):
        return _choice_mistakes(spec)
    if not isinstance(spec, dict):
        return [f"{spec!r} is not a range; write {_EXAMPLE} or a list of choices"]
    kind = spec.get("type")
    if kind is None:
        return [f"the type is missing: {', '.join(FIELDS)}; as in {_EXAMPLE}"]
    if kind not in FIELDS:
        return [f"there is no type {kind!r}; {suggest(str(kind), FIELDS)}"]
    names = ("type", *FIELDS[kind])
    mistakes = [f"{kind} has no field '{name}'; {suggest(str(name), names)}" for name in spec if name not in names]
    missing = [name for name in ("low", "high", "choices") if name in names and spec.get(name) is None]
    mistakes += [f"{kind} needs a value for '{name}'" for name in missing]
    if mistakes:
        return mistakes
    return _choice_mistakes(spec["choices"]) if kind == "categorical" else _number_mistakes(spec)


def _choice_mistakes(choices: object) -> list[str]:
    if not isinstance(choices, list):
        return [f"choices: {choices!r} is not a list"]
    if not choices:
        return ["there are no choices"]
    mistakes = []
    for position, choice in enumerate(choices):
        if not isinstance(choice, str | int | float | bool | None):
            mistakes.append(f"the choice {choice!r} is not a scalar (number, string, true, false, null)")
        elif isinstance(choice, float) and math.isnan(choice):
            mistakes.append("the choice nan is not a value")
        elif choice in choices[:position]:
            mistakes.append(f"the choice {choice!r} is a duplicate")
    return mistakes


def _number_mistakes(spec: PlainDict) -> list[str]:
    numbers = {name: spec[name] for name in ("low", "high", "step") if spec.get(name) is not None}
    noun, is_valid = ("an integer", _is_whole) if spec["type"] == "int" else ("a number", _is_finite)
    mistakes = [f"{name}={value!r}: expected {noun}" for name, value in numbers.items() if not is_valid(value)]
    if not isinstance(spec.get("log") or False, bool):
        mistakes.append(f"log={spec['log']!r}: expected true or false")
    if mistakes:
        return mistakes
    low, high, step = numbers["low"], numbers["high"], numbers.get("step")
    if low >= high:
        return [f"the range from {low} to {high} is empty: low must be below high"]
    if spec.get("log") and low <= 0:
        mistakes.append(f"log needs low > 0, got {low}")
    if spec.get("log") and step is not None and not (spec["type"] == "int" and step == 1):
        mistakes.append(f"log and step ({step}) exclude each other: leave one out")
    if step is not None and step <= 0:
        mistakes.append(f"step: {step} is not above 0")
    elif step is not None and step > high - low:
        mistakes.append(f"step: {step} is larger than the range from {low} to {high}")
    return mistakes


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int | float) and _is_finite(value) and float(value).is_integer()


def to_distribution(spec: list[str] | PlainDict) -> BaseDistribution:
    """Optuna's distribution for a valid range; its end is the last step inside the range."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(spec, list) or spec["type"] == "categorical":
        return CategoricalDistribution(spec if isinstance(spec, list) else spec["choices"])
    low, high, step, log = spec["low"], spec["high"], spec.get("step"), bool(spec.get("log"))
    if step is not None:
        high = float(Decimal(str(low)) + (_size(low, high, step) - 1) * Decimal(str(step)))
    if spec["type"] == "int":
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return FloatDistribution(float(low), float(high), log=log, step=step)


def _size(low: float, high: float, step: float) -> int:
    return int((Decimal(str(high)) - Decimal(str(low))) // Decimal(str(step))) + 1


def grid_values(distribution: BaseDistribution) -> Sequence[object] | None:
    """All values in order; None for infinitely many: a float without a step."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1, distribution.step)
    assert isinstance(distribution, FloatDistribution)
    if distribution.step is None:
        return None
    low, step = Decimal(str(distribution.low)), Decimal(str(distribution.step))
    count = _size(distribution.low, distribution.high, distribution.step)
    return [float(low + index * step) for index in range(count)]


def spec_of(override: Override) -> dict[str, object]:
    """The range of a sweep on Hydra's command line, as it would be written in YAML.

    ``range`` excludes its end, as in Python. Raises UserError for a sweep that is not a range.
    """
    value: object = override.value()
    if not isinstance(value, Sweep):
        raise UserError("a pattern is not a list of choices: write them out")
    if wrong := sorted(value.tags - {"log"}):
        raise UserError(f"there is no tag '{wrong[0]}'; {suggest(wrong[0], ['log'])}")
    if isinstance(value, ChoiceSweep):
        if value.tags:
            raise UserError("log is for an interval or a range, not for choices")
        return {"type": "categorical", "choices": [convert_value(choice) for choice in value.list]}
    if isinstance(value, RangeSweep):
        spec = _range_of(value)
    else:
        assert isinstance(value, IntervalSweep)
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        spec = {"type": "int" if whole else "float", "low": value.start, "high": value.end}
    return spec | ({"log": True} if value.tags else {})


def _range_of(value: RangeSweep) -> PlainDict:
    whole = all(isinstance(number, int) for number in (value.start, value.stop, value.step))
    start, stop, step = (Decimal(str(number)) for number in (value.start, value.stop, value.step))
    count = math.ceil((stop - start) / step) if step else 0
    if count < 1:
        raise UserError("the range is empty")
    low, high = sorted((start, start + (count - 1) * step))
    kind: type[int] | type[float] = int if whole else float
    size = {} if whole and abs(step) == 1 else {"step": kind(abs(step))}
    return {"type": kind.__name__, "low": kind(low), "high": kind(high)} | size
