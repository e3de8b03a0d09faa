"""What a sweep tries: trials, their outcomes, the `Plan` protocol, and the plans whose trials are known in advance."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from hydra.core.override_parser.types import Override, Transformer

from lightning_modules.compat.hydra import convert_value
from lightning_modules.config.errors import UserError

State = Literal["FINISHED", "PRUNED", "FAILED", "KILLED", "RUNNING"]
DONE_STATES = ("FINISHED", "PRUNED")  # such a trial is not started again


@dataclass(frozen=True)
class Trial:
    """One point of a sweep.

    Attributes:
        params: swept key -> value.
        overrides: the same as overrides of the command line.
        name: of its run; empty: made of `params` (`run_name`).
    """

    number: int
    params: dict[str, object]
    overrides: tuple[str, ...]
    name: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended; a FINISHED one has `values` by objective, and the latest values of all metrics as `logged`."""

    state: State
    run_id: str | None
    values: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    logged: Mapping[str, float] = field(default_factory=dict)
    retry: bool = True  # false for a user's mistake, which would fail again


class Plan(Protocol):
    """Proposes the trials of a sweep.

    Attributes:
        keys: the swept keys.
        objectives: metric -> ``minimize`` or ``maximize``.
        total: the number of trials.
        is_sequential: whether the next trial depends on the outcomes of earlier ones.
        identity: distinguishes this plan from others where the command line does not, as JSON values.
    """

    keys: list[str]
    objectives: dict[str, str]
    total: int
    is_sequential: bool
    identity: dict[str, object] | None = None

    def ask(self) -> Trial | None:
        """The next trial that was never started; None if there is none."""

    def started(self, recorded: Collection[int]) -> list[Trial]:
        """The trials that an earlier process started, by number; `recorded`: the numbers of those in the store."""

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        """Report the final outcome of a trial."""

    def samples(self) -> list[tuple[str, ...]]:
        """Overrides to compose and check before the first trial is started."""
        return []

    def pruning(self) -> dict[str, object] | None:
        """The settings of `PruningClient` for the trials of this plan; None if none is pruned."""
        return None


class FixedPlan(Plan):
    """A given list of trials, in that order.

    Args:
        samples, identity: see `Plan`.
    """

    is_sequential = False

    def __init__(
        self,
        trials: Sequence[Trial],
        keys: Sequence[str],
        objectives: Mapping[str, str],
        samples: Sequence[tuple[str, ...]],
        identity: Mapping[str, object] | None = None,
    ) -> None:
        self.trials, self.keys, self.objectives = list(trials), list(keys), dict(objectives)
        self.total, self.identity = len(self.trials), None if identity is None else dict(identity)
        self._samples, self._remaining = list(samples), iter(self.trials)

    def started(self, recorded: Collection[int]) -> list[Trial]:
        self._remaining = iter([trial for trial in self.trials if trial.number not in recorded])
        return [trial for trial in self.trials if trial.number in recorded]

    def samples(self) -> list[tuple[str, ...]]:
        return self._samples

    def ask(self) -> Trial | None:
        return next(self._remaining, None)

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        """Outcomes do not change the list."""


def grid_plan(swept: Sequence[Override], objectives: Mapping[str, str]) -> FixedPlan:
    """Every combination of the values on the command line, the last key fastest.

    Raises UserError if a key has no values, has one twice, or ranges over an interval.
    """
    axes = [_axis_values(override) for override in swept]
    keys = [override.get_key_element().lstrip("+") for override in swept]
    trials = []
    for number, point in enumerate(itertools.product(*axes)):
        params = dict(zip(keys, (value for _, value in point), strict=True))
        trials.append(Trial(number, params, tuple(override for override, _ in point)))
    longest = max(map(len, axes), default=1)  # so many samples have every value of every key
    samples = [tuple(axis[i % len(axis)][0] for axis in axes) for i in range(longest)]
    return FixedPlan(trials, keys, objectives, samples)


def _axis_values(override: Override) -> list[tuple[str, object]]:
    """Each value of a swept key, as an override and as a plain value."""
    key, text = override.get_key_element(), override.input_line
    if not override.is_discrete_sweep():
        raise UserError(f"{text}: a grid needs a list of values, not an interval; or search it: hydra/sweeper=optuna")
    if getattr(override.value(), "shuffle", False):
        raise UserError(f"{text}: a sweep with shuffled values cannot be resumed; remove the shuffle")
    found = list(override.sweep_iterator())
    overrides = [f"{key}={Transformer.str(value)}" for value in found]
    if not overrides:
        raise UserError(f"{text}: there is no value in it")
    duplicates = sorted({one for one in overrides if overrides.count(one) > 1})
    if duplicates:
        raise UserError(f"{text}: duplicate value {', '.join(duplicates)}")
    return list(zip(overrides, map(convert_value, found), strict=True))
