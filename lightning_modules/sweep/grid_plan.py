"""The grid: every combination of the values that stand on the command line."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import Override, Transformer

from lightning_modules.compat.hydra import convert_value
from lightning_modules.config.errors import UserError
from lightning_modules.sweep.plans import Outcome, Trial


class GridPlan:
    """All combinations, the last key fastest; as `Plan`.

    Raises UserError where a key has no values, has one twice, or ranges over an interval.
    """

    is_sequential = False

    def __init__(self, swept: Sequence[Override], objectives: dict[str, str]) -> None:
        self.objectives = objectives
        self.keys = [override.get_key_element().lstrip("+") for override in swept]
        self._axes = [_axis_values(override) for override in swept]
        self.total = math.prod(len(axis) for axis in self._axes)
        self._trials = (self._trial(number, point) for number, point in enumerate(itertools.product(*self._axes)))
        self._known: set[int] = set()

    def _trial(self, number: int, point: Sequence[tuple[str, Any]]) -> Trial:
        params = dict(zip(self.keys, (value for _, value in point), strict=True))
        return Trial(number, params, tuple(word for word, _ in point))

    def skip(self, numbers: set[int]) -> None:
        """Leave out trials that have a run already; `begun` gives them back."""
        self._known = numbers

    def started(self) -> list[Trial]:
        points = enumerate(itertools.product(*self._axes))
        return [self._trial(number, point) for number, point in points if number in self._known]

    def samples(self) -> list[tuple[str, ...]]:
        """Points in which every value of every key stands at least once: as many as the longest axis has."""
        longest = max((len(axis) for axis in self._axes), default=1)
        return [tuple(axis[i % len(axis)][0] for axis in self._axes) for i in range(longest)]

    def ask(self) -> Trial | None:
        return next((trial for trial in self._trials if trial.number not in self._known), None)

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        """A grid does not learn."""


def _axis_values(override: Override) -> list[tuple[str, Any]]:
    """Each value of a sweep as an override and as a plain value."""
    key, said = override.get_key_element(), override.input_line
    if not override.is_discrete_sweep():
        raise UserError(
            f"{said}: an interval has no list of values; choose some, or search it with hydra/sweeper=optuna"
        )
    if getattr(override.value(), "shuffle", False):
        raise UserError(f"{said}: shuffled values cannot be gone on with after an interruption; leave the shuffle out")
    found = list(override.sweep_iterator())
    overrides = [f"{key}={Transformer.str(value)}" for value in found]
    values = [convert_value(value) for value in found]
    if not overrides:
        raise UserError(f"{said}: there is no value in it")
    twice = sorted({word for word in overrides if overrides.count(word) > 1})
    if twice:
        raise UserError(f"{said}: {', '.join(twice)} stands there twice")
    return list(zip(overrides, values, strict=True))
