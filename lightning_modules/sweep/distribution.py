"""One range of a search space: what may be written, what is wrong with it, and Optuna's distribution for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Sweep

from lightning_modules.compat.hydra import convert_value
from lightning_modules.config.errors import UserError, suggest

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_NUMERIC = ("low", "high", "step", "log")
FIELDS = {"float": _NUMERIC, "int": _NUMERIC, "categorical": ("choices",)}
_EXAMPLE = "{type: float, low: 1e-4, high: 1e-1, log: true}"


def range_mistakes(spec: Any) -> list[str]:
    """All that is wrong with a range as it is written in YAML: a list of choices, or a mapping with its `type`."""
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


def _choice_mistakes(choices: Any) -> list[str]:
    if not isinstance(choices, list):
        return [f"choices: {choices!r} is not a list"]
    if not choices:
        return ["there are no choices"]
    mistakes = []
    for position, choice in enumerate(choices):
        if not isinstance(choice, str | int | float | bool | None):
            mistakes.append(f"the choice {choice!r} is not a single value (a number, a text, true, false, null)")
        elif isinstance(choice, float) and math.isnan(choice):
            mistakes.append("the choice nan is not a value")
        elif choice in choices[:position]:
            mistakes.append(f"the choice {choice!r} stands there twice")
    return mistakes


def _number_mistakes(spec: dict[str, Any]) -> list[str]:
    numbers = {name: spec[name] for name in ("low", "high", "step") if spec.get(name) is not None}
    noun = "a whole number" if spec["type"] == "int" else "a number"
    mistakes = [f"{n}: {value!r} is not {noun}" for n, value in numbers.items() if not _is_number(value, spec["type"])]
    if not isinstance(spec.get("log") or False, bool):
        mistakes.append(f"log: {spec['log']!r} is neither true nor false")
    if mistakes:
        return mistakes
    low, high, step = numbers["low"], numbers["high"], numbers.get("step")
    if low >= high:
        return [f"the range from {low} to {high} is empty: low must be below high"]
    if spec.get("log") and low <= 0:
        mistakes.append(f"log needs a low above 0, and it is {low}")
    if spec.get("log") and step is not None and not (spec["type"] == "int" and step == 1):
        mistakes.append(f"log and step ({step}) exclude each other: leave one out")
    if step is not None and step <= 0:
        mistakes.append(f"step: {step} is not above 0")
    elif step is not None and step > high - low:
        mistakes.append(f"step: {step} is larger than the range from {low} to {high}")
    return mistakes


def _is_number(value: Any, kind: str) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return kind == "float" or float(value).is_integer()


def to_distribution(spec: Any) -> BaseDistribution:
    """Optuna's distribution for a range in which `range_mistakes` finds none; the end is the last step inside."""
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


def grid_values(distribution: BaseDistribution) -> Sequence[Any] | None:
    """All values in order; None where there is no end of them: a float without a step."""
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


def spec_of(override: Override) -> dict[str, Any]:
    """The range that a sweep of Hydra's command line stands for, as it would be written in YAML.

    ``range`` leaves its end out, as in Python. Raises `UserError` where it stands for none.
    """
    value: Any = override.value()
    if not isinstance(value, Sweep):
        raise UserError("a pattern is no list of choices: write them out")
    if wrong := sorted(value.tags - {"log"}):
        raise UserError(f"there is no tag '{wrong[0]}'; {suggest(wrong[0], ['log'])}")
    if isinstance(value, ChoiceSweep):
        if value.tags:
            raise UserError("log is for an interval or a range, not for choices")
        return {"type": "categorical", "choices": [convert_value(choice) for choice in value.list]}
    spec: dict[str, Any] = _range_of(value) if isinstance(value, RangeSweep) else _interval_of(value)
    return spec | ({"log": True} if value.tags else {})


def _interval_of(value: Any) -> dict[str, Any]:
    assert isinstance(value, IntervalSweep)
    whole = isinstance(value.start, int) and isinstance(value.end, int)
    return {"type": "int" if whole else "float", "low": value.start, "high": value.end}


def _range_of(value: RangeSweep) -> dict[str, Any]:
    whole = all(isinstance(number, int) for number in (value.start, value.stop, value.step))
    start, stop, step = (Decimal(str(number)) for number in (value.start, value.stop, value.step))
    count = math.ceil((stop - start) / step) if step else 0
    if count < 1:
        raise UserError("the range is empty")
    low, high = sorted((start, start + (count - 1) * step))
    kind: type[int] | type[float] = int if whole else float
    size = {} if whole and abs(step) == 1 else {"step": kind(abs(step))}
    return {"type": kind.__name__, "low": kind(low), "high": kind(high)} | size
