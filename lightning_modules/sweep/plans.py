"""What a sweep tries: a trial, what became of it, and the plan that says which trials there are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

State = Literal["FINISHED", "PRUNED", "FAILED", "KILLED", "RUNNING"]
DONE_STATES = ("FINISHED", "PRUNED")  # nothing is left to do for such a trial


@dataclass(frozen=True)
class Trial:
    """One point of a sweep.

    Attributes:
        params: the swept keys and their values.
        words: the same as overrides of the command line.
        name: of its run; empty: by what was swept.
    """

    number: int
    params: dict[str, Any]
    overrides: tuple[str, ...]
    name: str = ""


@dataclass(frozen=True)
class Outcome:
    """What the store says of a trial; `values` by objective, and the latest of all metrics, only where it FINISHED."""

    state: State
    run_id: str | None
    values: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    logged: Mapping[str, float] = field(default_factory=dict)


class Plan(Protocol):
    """Where trials come from: a grid knows them all, a search asks for the next one.

    Attributes:
        keys: the swept keys.
        objectives: metric -> ``minimize`` or ``maximize``.
        total: how many trials there will be.
        waits: whether the next trial depends on how earlier ones ended.
    """

    keys: list[str]
    objectives: dict[str, str]
    total: int
    is_sequential: bool

    def ask(self) -> Trial | None:
        """The next trial that was never begun; None when there is no other."""

    def started(self) -> list[Trial]:
        """The trials that were asked for before this process, by number."""

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        """Take note of how a trial ended, for good."""
