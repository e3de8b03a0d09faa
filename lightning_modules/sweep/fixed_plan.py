"""A plan that knows all its trials beforehand, each with words of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_modules.sweep.plans import Outcome, Trial


class FixedPlan:
    """The trials as they stand; as `Plan`.

    Args:
        samples: overrides that are composed and checked before the first trial.
        identity: what makes two such plans the same, as JSON knows it.
    """

    is_sequential = False

    def __init__(
        self,
        trials: Sequence[Trial],
        keys: Sequence[str],
        objectives: Mapping[str, str],
        samples: Sequence[tuple[str, ...]],
        identity: Mapping[str, Any],
    ) -> None:
        self.trials = list(trials)
        self.keys, self.objectives = list(keys), dict(objectives)
        self.total, self.identity = len(self.trials), dict(identity)
        self._samples = list(samples)
        self._known: set[int] = set()
        self._next = iter(self.trials)

    def skip(self, numbers: set[int]) -> None:
        """Leave out trials that have a run already; `begun` gives them back."""
        self._known = numbers

    def started(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.number in self._known]

    def samples(self) -> list[tuple[str, ...]]:
        """Points that stand for all of them."""
        return self._samples

    def ask(self) -> Trial | None:
        return next((trial for trial in self._next if trial.number not in self._known), None)

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        """A list does not learn."""
