"""The schema of a claim, the node `claim` of an experiment. All mistakes are reported together.

Longer than 200 lines: the fields with their documentation, and what they exclude.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from statistics import fmean
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from lightning_modules.report.t_intervals import Sample, summarize


class Verdict(StrEnum):
    """The result of comparing our runs with the published number."""

    REPRODUCED = "REPRODUCED"  # the interval of the difference is within the tolerance
    CONSISTENT = "CONSISTENT"  # it contains 0 and excludes differences beyond four tolerances
    BETTER = "BETTER"  # it is on the better side of the published number
    NOT_REPRODUCED = "NOT_REPRODUCED"
    INCONCLUSIVE = "INCONCLUSIVE"  # too few seeds, a wide interval, or a shortened run
    INVALID = "INVALID"  # different data or config


SeedValues = Mapping[str, Mapping[int, float]]  # arm ("" without arms) -> seed -> value in the claim's unit


class StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_min_length=1)


class Paper(StrictModel):
    """The publication."""

    title: str
    authors: str
    year: int = Field(ge=1900, le=2100)
    link: str


SourceKind = Literal["paper_table", "repo_log", "notebook", "readme", "secondary", "internal"]


class Source(StrictModel):
    """Where the number is published: table and cell, or file of a repository."""

    place: str
    kind: SourceKind


class Tolerance(StrictModel):
    """The largest accepted difference, in the claim's unit, and its justification."""

    value: float = Field(ge=0)
    why: str


class PublishedValue(StrictModel):
    """The published result: single runs, a mean of n runs with or without its spread, or one number.

    Attributes:
        spread: whether `std` or `runs` are over seeds or folds; required with folds, as the two are not comparable.
    """

    value: float | None = None
    std: float | None = Field(default=None, ge=0)
    n: int | None = Field(default=None, ge=1)
    runs: tuple[float, ...] = ()
    spread: Literal["seeds", "folds"] | None = None

    def sample(self) -> Sample | None:
        """The published runs, mean with or without spread, or single number; None if nothing is published.

        A spread over folds shows how the folds differ, not how seeds would: the number then counts as one run.
        """
        if self.spread == "folds":
            return Sample(self.value if self.value is not None else fmean(self.runs), None, 1)
        if self.runs:
            return summarize(self.runs)
        if self.value is None:
            return None
        n = self.n or 1
        return Sample(self.value, self.std if n > 1 else None, n)


class Arm(PublishedValue):
    """One of the configs compared by a difference, an ordering or an equivalence."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    overrides: tuple[str, ...] = ()


class Budget(StrictModel):
    """Resources that all seeds take on a machine of the tier."""

    cpu_minutes: float = Field(gt=0)
    memory_gb: float = Field(gt=0)


Kind = Literal["absolute", "difference", "ordering", "curve", "equivalence"]
Selection = Literal["last", "best_val", "best_test", "lowest_train_loss"]
Tier = Literal["ci", "cpu", "gpu", "cluster"]
AsList = BeforeValidator(lambda v: [v] if isinstance(v, str) else v)


class Claim(PublishedValue):
    """A published result and how it is judged.

    Attributes:
        metric: name of the run's metric in the store.
        unit: with ``%`` the metric is multiplied by 100, and `value`, `std`, `runs` and `tolerance` are percentages;
            any other text is the metric's own unit.
        better: whether a higher or a lower metric is better.
        value, std, n, runs: the published result; for a difference, first arm minus second.
        epoch: for a curve, the epoch after which the value is measured.
        folds: a seed's value is the mean over this many folds (``data.fold``).
        arms: for a difference (two), an ordering (best first) or an equivalence (each against the first).
        data: sha256 of the raw data; different data are rejected.
        shortened: why less is trained than in the paper; the verdict is then INCONCLUSIVE.
        expect: the expected verdicts.
    """

    paper: Paper
    source: Source
    metric: str
    unit: Annotated[str, StringConstraints(min_length=0)] = ""
    better: Literal["higher", "lower"]
    kind: Kind = "absolute"
    epoch: int | None = Field(default=None, ge=1)
    selection: Selection
    tolerance: Tolerance | None = None
    seeds: tuple[int, ...] = Field(min_length=1)
    folds: int | None = Field(default=None, ge=2)
    arms: tuple[Arm, ...] = ()
    data: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    deviations: tuple[str, ...] = ()
    unknowns: tuple[str, ...] = ()
    shortened: str | None = None
    expect: Annotated[tuple[Verdict, ...], AsList] = Field(min_length=1)
    budget: Budget
    tier: Tier

    @property
    def scale(self) -> float:
        """Factor from the metric's unit to the claim's."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def arm_names(self) -> tuple[str, ...]:
        """Names of the arms; one empty name without arms."""
        return tuple(arm.name for arm in self.arms) or ("",)

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        problems = list(self._problems())
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        """Contradictions between the fields."""
        names = [arm.name for arm in self.arms]
        several = self.kind in ("difference", "ordering", "equivalence")
        if len(set(self.seeds)) < len(self.seeds):
            yield "seeds: duplicate value"
        if len(set(names)) < len(names):
            yield "arms: duplicate name"
        if several and len(names) < 2:
            yield f"arms: a claim of kind {self.kind} needs two or more"
        if self.kind == "difference" and len(names) > 2:
            yield "arms: a difference has exactly two; use kind: ordering for more"
        if not several and names:
            yield f"arms: not allowed for a claim of kind {self.kind}"
        if (self.kind == "curve") != (self.epoch is not None):
            yield "epoch: required for kind curve, not allowed for any other"
        if self.kind in ("absolute", "curve", "difference") and self.value is None and not self.runs:
            yield "value: give value or runs"
        if self.kind == "equivalence" and self.tolerance is None:
            yield "tolerance: required for an equivalence"
        usual = self.tolerance or self.unit == "%" or self.std or self.runs or any(a.value or a.runs for a in self.arms)
        if self.kind == "difference" and not usual:
            yield "tolerance: required, as the arms have no published values from which a default of 1 % could be derived"
        if self.folds and self.spread is None and (self.std is not None or len(self.runs) > 1):
            yield "spread: required with folds: is the published spread over seeds or over folds?"
        for where, part in (("", self), *((f"arms.{arm.name}.", arm) for arm in self.arms)):
            yield from (where + problem for problem in _number_problems(part))


def _number_problems(part: PublishedValue) -> Iterator[str]:
    if part.runs and (part.std is not None or part.n is not None):
        yield "runs: remove std and n, which follow from runs"
    if part.std is not None and part.n is None:
        yield "std: n (the number of runs) is missing"
    if part.runs and part.value is not None:
        mean = sum(part.runs) / len(part.runs)
        if abs(mean - part.value) > 0.005 * abs(mean):  # rounding
            yield f"value: {part.value:g} is not the mean of runs, {mean:g}"


def parse_claim(node: Mapping[str, object]) -> tuple[Claim | None, list[tuple[str, str]]]:
    """The parsed claim, or all its mistakes as (key below `claim`, message)."""
    try:
        return Claim.model_validate(dict(node)), []
    except ValidationError as error:
        found: list[tuple[str, str]] = []
        for mistake in error.errors():
            key = ".".join(str(part) for part in mistake["loc"])
            for line in mistake["msg"].removeprefix("Value error, ").splitlines():
                own_key, colon, message = line.partition(": ")
                has_key = mistake["type"] == "value_error" and colon
                found.append((own_key, message) if has_key else (key, line))
        return None, found
