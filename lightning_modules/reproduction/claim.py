"""What a claim is: the node `claim` of an experiment, typed; all its mistakes are found at once."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator


class Verdict(StrEnum):
    """What can be said of our runs beside the paper's number."""

    REPRODUCED = "REPRODUCED"  # the interval of the difference lies inside the tolerance
    CONSISTENT = "CONSISTENT"  # it contains the paper's number and excludes differences beyond four tolerances
    BETTER = "BETTER"  # it lies on the better side of the paper's number
    NOT_REPRODUCED = "NOT_REPRODUCED"
    INCONCLUSIVE = "INCONCLUSIVE"  # too few seeds, too wide an interval, or a shortened run
    INVALID = "INVALID"  # other data, another config


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_min_length=1)


class Paper(Strict):
    """Who says it."""

    title: str
    authors: str
    year: int = Field(ge=1900, le=2100)
    link: str


SourceKind = Literal["paper_table", "repo_log", "notebook", "readme", "secondary", "internal"]


class Source(Strict):
    """Where exactly the number stands: table and cell, or file of a repository."""

    place: str
    kind: SourceKind


class Tolerance(Strict):
    """How far we may be off, in the claim's unit, and why so far."""

    value: float = Field(ge=0)
    why: str


class Original(Strict):
    """What was published: single runs, a mean of n runs with or without its spread, or one number.

    Attributes:
        spread: what `std` or `runs` are over; needed of a claim with folds. A spread over folds is not one over seeds.
    """

    value: float | None = None
    std: float | None = Field(default=None, ge=0)
    n: int | None = Field(default=None, ge=1)
    runs: tuple[float, ...] = ()
    spread: Literal["seeds", "folds"] | None = None


class Arm(Original):
    """One of the configs that a difference, an ordering or an equivalence is between."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    overrides: tuple[str, ...] = ()


class Budget(Strict):
    """What all seeds take on the machine of the tier."""

    cpu_minutes: float = Field(gt=0)
    memory_gb: float = Field(gt=0)


Kind = Literal["absolute", "difference", "ordering", "curve", "equivalence"]
Selection = Literal["last", "best_val", "best_test", "lowest_train_loss"]
Tier = Literal["ci", "cpu", "gpu", "cluster"]
Listed = BeforeValidator(lambda v: [v] if isinstance(v, str) else v)


class Claim(Original):
    """A paper's result and how it is judged.

    Attributes:
        metric: of the run, as it stands in the store.
        unit: ``%`` shows a fraction times 100, and `value`, `std`, `runs` and `tolerance` are given so; any other
            word is the metric's own unit.
        better: which way the metric is better.
        value, std, n, runs: what was published; of a difference, first arm minus second.
        epoch: of a curve: after which epoch the value stands.
        folds: a seed's value is the mean over so many folds of ``data.fold``.
        arms: of a difference (two), an ordering (best first) or an equivalence (the others against the first).
        data: sha256 of the raw values; other data are not run.
        shortened: why, where less is trained than the paper trained; the verdict is then INCONCLUSIVE.
        expect: the verdicts that are no surprise.
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
    expect: Annotated[tuple[Verdict, ...], Listed] = Field(min_length=1)
    budget: Budget
    tier: Tier

    @property
    def scale(self) -> float:
        """From the metric's unit to the claim's."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def arm_names(self) -> tuple[str, ...]:
        """The arms, or one without a name."""
        return tuple(arm.name for arm in self.arms) or ("",)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        problems = list(self._problems())
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _problems(self) -> Any:
        """What the fields say against each other."""
        names = [arm.name for arm in self.arms]
        several = self.kind in ("difference", "ordering", "equivalence")
        if len(set(self.seeds)) < len(self.seeds):
            yield "seeds: one stands there twice"
        if len(set(names)) < len(names):
            yield "arms: one name stands there twice"
        if several and len(names) < 2:
            yield f"arms: a claim of kind {self.kind} is between two configs or more"
        if self.kind == "difference" and len(names) > 2:
            yield "arms: a difference is between two; an ordering takes more"
        if not several and names:
            yield f"arms: a claim of kind {self.kind} has none"
        if (self.kind == "curve") != (self.epoch is not None):
            yield "epoch: a claim of kind curve has one, no other does"
        if self.kind in ("absolute", "curve", "difference") and self.value is None and not self.runs:
            yield "value: neither value nor runs are given"
        if self.kind == "equivalence" and self.tolerance is None:
            yield "tolerance: an equivalence is judged by it"
        usual = self.tolerance or self.unit == "%" or self.std or self.runs or any(a.value or a.runs for a in self.arms)
        if self.kind == "difference" and not usual:
            yield "tolerance: required: without it, 1 % of the arms' published values is used, and they have none"
        if self.folds and self.spread is None and (self.std is not None or len(self.runs) > 1):
            yield "spread: required with folds: is the published spread over seeds or over folds?"
        for where, part in (("", self), *((f"arms.{arm.name}.", arm) for arm in self.arms)):
            yield from (where + problem for problem in _number_problems(part))


def _number_problems(part: Original) -> Any:
    if part.runs and (part.std is not None or part.n is not None):
        yield "runs: std and n follow from them; leave those out"
    if part.std is not None and part.n is None:
        yield "std: give n as well: of how many runs it is"
    if part.runs and part.value is not None:
        mean = sum(part.runs) / len(part.runs)
        if abs(mean - part.value) > 0.005 * abs(mean):  # rounding
            yield f"value: {part.value:g} is not the mean of runs, {mean:g}"


def parse_claim(node: Mapping[str, Any]) -> tuple[Claim | None, list[tuple[str, str]]]:
    """The claim, or all its mistakes as (place below `claim`, what is wrong)."""
    try:
        return Claim.model_validate(dict(node)), []
    except ValidationError as error:
        found = []
        for mistake in error.errors():
            place = ".".join(str(part) for part in mistake["loc"])
            said = mistake["msg"].removeprefix("Value error, ")
            for line in said.splitlines():
                key, colon, rest = line.partition(": ")
                within = mistake["type"] == "value_error" and colon
                found.append((key, rest) if within else (place, line))
        return None, found
