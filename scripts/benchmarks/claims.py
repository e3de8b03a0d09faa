"""How often a verdict is wrong, by simulation, for each kind of claim: normal runs, judged as `reproduce` judges them.

NOT_REPRODUCED and BETTER are wrong where both have the same true mean, REPRODUCED where ours is off by the tolerance.
Each is nominally at most 5 %. With correlation, runs of one seed share most of their noise: our arms do, and so do the
published runs of a difference where the paper gives one difference for each seed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

DRAWS = 4000
SEEDS = (3, 5, 10)
CORRELATIONS = (0.0, 0.9)
NOMINAL = 0.05
FAR, NEAR = 8.0, 0.01  # tolerances, in standard deviations: one that every interval fits into, one that none does
Array = np.ndarray
Draw = tuple[dict[str, Any], Array]  # what was published; ours [arms, seeds]


@dataclass(frozen=True)
class Kind:
    """A kind of claim: `draw(random, correlation, n, shift)` gives a paper's numbers and our runs, off by `shift`."""

    name: str
    kind: str
    draw: Callable[[np.random.Generator, float, int, float], Draw]
    arms: int = 0
    correlations: tuple[float, ...] = CORRELATIONS


def runs(random: np.random.Generator, arms: int, n: int, correlation: float) -> Array:
    """Runs [arms, n] of mean 0 and standard deviation 1; those of one seed correlate."""
    shared = np.sqrt(correlation) * random.normal(size=(1, n))
    return np.asarray(shared + np.sqrt(1 - correlation) * random.normal(size=(arms, n)))


def value(theirs: int, published: str) -> Callable[..., Draw]:
    def draw(random: np.random.Generator, _: float, n: int, shift: float) -> Draw:
        return given(random.normal(size=theirs), published), shift + runs(random, 1, n, 0.0)

    return draw


def difference(theirs: int, published: str) -> Callable[..., Draw]:
    def draw(random: np.random.Generator, correlation: float, n: int, shift: float) -> Draw:
        ours = runs(random, 2, n, correlation) + np.array([[shift], [0.0]])
        paired = correlation if published == "runs" else 0.0  # the paper's arms share no seeds unless it lists pairs
        first, second = runs(random, 2, theirs, paired)
        if published == "arms":
            arms = [given(arm, "std") for arm in (first, second)]
            return {"value": arms[0]["value"] - arms[1]["value"], "arms": arms}, ours
        return given(first - second, published), ours

    return draw


def arms(count: int, width: float = 1.0) -> Callable[..., Draw]:
    """Arms of the same mean but for the first, which is off by `shift`; `width` is the noise of their differences."""

    def draw(random: np.random.Generator, correlation: float, n: int, shift: float) -> Draw:
        return {}, width * runs(random, count, n, correlation) + shift * (np.arange(count) == 0)[:, None]

    return draw


def given(published: Array, form: str) -> dict[str, Any]:
    """The fields of a claim for published runs."""
    if form == "runs":
        return {"runs": tuple(published.tolist())}
    mean = {"value": float(published.mean())}
    if form == "std":
        return {**mean, "std": float(published.std(ddof=1)), "n": len(published)}
    return {**mean, "n": len(published)}


KINDS = (
    Kind("value, one number", "absolute", value(1, "mean"), correlations=(0.0,)),
    Kind("value, mean of 5", "absolute", value(5, "mean"), correlations=(0.0,)),
    Kind("value, mean ± sd of 2", "absolute", value(2, "std"), correlations=(0.0,)),
    Kind("value, mean ± sd of 3", "absolute", value(3, "std"), correlations=(0.0,)),
    Kind("value, mean ± sd of 10", "absolute", value(10, "std"), correlations=(0.0,)),
    Kind("difference, one number", "difference", difference(1, "mean"), 2),
    Kind("difference, mean of 5", "difference", difference(5, "mean"), 2),
    Kind("difference, arms' mean ± sd of 5", "difference", difference(5, "arms"), 2),
    Kind("difference, 2 paired runs", "difference", difference(2, "runs"), 2),
    Kind("difference, 10 paired runs", "difference", difference(10, "runs"), 2),
    Kind("ordering, 2 arms", "ordering", arms(2), 2),
    Kind("ordering, 3 arms", "ordering", arms(3), 3),
    Kind("equivalence, 2 arms", "equivalence", arms(2, 0.5), 2),
)


def rates(kind: Kind, correlation: float, n: int, draws: int = DRAWS) -> dict[str, float]:
    """The share of each wrong verdict: NOT_REPRODUCED and BETTER of what is true, REPRODUCED of what is just not."""
    if kind.kind == "ordering":  # equal arms are the edge of both
        found = list(verdicts(kind, correlation, n, 0.0, NEAR, draws))
        return {verdict: found.count(verdict) / draws for verdict in ("NOT_REPRODUCED", "REPRODUCED")}
    near = FAR if kind.kind == "equivalence" else NEAR  # what is equivalent is never further off than the tolerance
    same = list(verdicts(kind, correlation, n, 0.0, near, draws))
    off = 1.0 if kind.kind == "equivalence" else FAR
    other = list(verdicts(kind, correlation, n, off, off, draws))
    wrong = {verdict: same.count(verdict) / draws for verdict in ("NOT_REPRODUCED", "BETTER")}
    return {**wrong, "REPRODUCED": other.count("REPRODUCED") / draws}


def verdicts(kind: Kind, correlation: float, n: int, shift: float, tolerance: float, draws: int) -> Iterator[str]:
    """The verdicts of `draws` papers and reproductions, from a seed that depends on the cell alone."""
    from lightning_modules.reproduction.claim import Arm, Claim
    from lightning_modules.reproduction.verdict import judge

    names = tuple("abc"[: kind.arms])
    blank = {
        "paper": {"title": "t", "authors": "a", "year": 2000, "link": "l"}, "source": {"place": "p", "kind": "internal"},
        "metric": "test/accuracy", "better": "higher", "selection": "last", "seeds": range(n), "expect": "REPRODUCED",
        "budget": {"cpu_minutes": 1, "memory_gb": 1}, "tier": "ci", "kind": kind.kind,
        "arms": [{"name": name} for name in names], "tolerance": {"value": tolerance, "why": "simulated"},
        **({} if kind.kind in ("ordering", "equivalence") else {"value": 0.0}),
    }  # fmt: skip
    claim = Claim.model_validate(blank)
    random = np.random.default_rng([KINDS.index(kind), round(10 * correlation), n, round(10 * shift)])
    for _ in range(draws):
        published, ours = kind.draw(random, correlation, n, shift)
        if "arms" in published:
            published["arms"] = tuple(Arm(name=a, **arm) for a, arm in zip(names, published["arms"], strict=True))
        if "runs" in published:
            published["value"] = None
        values = {name: dict(enumerate(row.tolist())) for name, row in zip(names or ("",), ours, strict=True)}
        yield str(judge(claim.model_copy(update=published), values).verdict)


def cells() -> Iterator[tuple[Kind, float, int]]:
    """Every kind, correlation and number of seeds."""
    yield from ((kind, rho, n) for kind in KINDS for rho in kind.correlations for n in SEEDS)


def run(_: int) -> None:
    """Print the table: per cent of wrong verdicts in DRAWS simulations a cell, nominally at most 5."""
    print(f"\n## claims: wrong verdicts in {DRAWS} simulations a cell, in % (nominal: at most {100 * NOMINAL:g})\n")
    print("| kind of claim | correlation | n | NOT_REPRODUCED | BETTER | REPRODUCED |\n|---|--:|--:|--:|--:|--:|")
    for kind, correlation, n in cells():
        found = rates(kind, correlation, n)
        shares = [f"{100 * found[v]:.1f}" if v in found else "–" for v in ("NOT_REPRODUCED", "BETTER", "REPRODUCED")]
        print(f"| {kind.name} | {correlation:g} | {n} | {' | '.join(shares)} |", flush=True)
