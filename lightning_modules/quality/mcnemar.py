"""McNemar's exact test: do two runs that were tested on the same samples get equally many right?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from lightning_modules.comparison.groups import SEED_KEYS
from lightning_modules.comparison.result import Comparison, Row
from lightning_modules.config.errors import UserError
from lightning_modules.quality.prediction_recorder import FILE
from lightning_modules.report.numbers import format_p
from lightning_modules.report.statistics import holm
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.store import Store
from lightning_modules.tracking.tags import DATA_FINGERPRINT_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True)
class McNemar:
    """The test of two runs; `p_holm` is corrected over all pairs of runs that are tested together."""

    runs: tuple[str, str]
    names: tuple[str, str]
    samples: int
    only_first: int  # samples that the first run alone has right
    only_second: int
    p: float
    p_holm: float

    def __str__(self) -> str:
        (first, second), (one, two) = self.names, (run_id[:8] for run_id in self.runs)
        return (
            f"McNemar: of {self.samples} test samples {self.only_first} are right in {first} ({one}) alone, "
            f"{self.only_second} in {second} ({two}) alone; p = {format_p(self.p)}, p (Holm) = {format_p(self.p_holm)}"
        )


def mcnemar(store: Store, comparison: Comparison) -> list[McNemar]:
    """Test two runs, or each run of the groups against the run of the baseline (of two groups: the other) with its seed.

    Raises UserError if it is not clear what to test, and for runs without predictions, of other tasks or of other samples.
    """
    pairs = _pairs(store, comparison)
    counts = [_count(store, *pair) for pair in pairs]
    p_values = [exact_p(only_first, only_second) for _, only_first, only_second in counts]
    return [
        McNemar(
            (first.info.run_id, second.info.run_id), (first.info.run_name, second.info.run_name), *count, p, p_holm or p
        )
        for (first, second), count, p, p_holm in zip(pairs, counts, p_values, holm(p_values), strict=True)
    ]


def exact_p(only_first: int, only_second: int) -> float:
    """The two-sided binomial p-value of the samples that only one of two runs has right."""
    from scipy.stats import binomtest

    decided = only_first + only_second
    return float(binomtest(only_first, decided).pvalue) if decided else 1.0


def _pairs(store: Store, comparison: Comparison) -> list[tuple["Run", "Run"]]:
    rows = comparison.rows
    if sum(len(row.runs) for row in rows) == 2:
        first, second = (store.client.get_run(run_id) for row in rows for run_id in row.runs)
        return [(first, second)]
    base = next((row for row in rows if row.is_baseline), rows[-1])
    if len(rows) < 2 or (len(rows) > 2 and not base.is_baseline):
        raise UserError("test=mcnemar tests two runs or two groups; of more groups name one as baseline=KEY=VALUE")
    others, reference = [_by_seed(store, row) for row in rows if row is not base], _by_seed(store, base)
    pairs = [(run, reference[seed]) for group in others for seed, run in group.items() if seed in reference]
    if not pairs:
        raise UserError(
            "test=mcnemar: no seed in common: a run is tested against that of the other group with its seed"
        )
    return pairs


def _by_seed(store: Store, row: Row) -> dict[tuple[str, ...], "Run"]:
    found: dict[tuple[str, ...], Run] = {}
    for run in map(store.client.get_run, row.runs):
        seed = tuple(run.data.params.get(key, "") for key in SEED_KEYS)
        if seed in found:
            known = f"{found[seed].info.run_id[:8]} and {run.info.run_id[:8]}"
            raise UserError(
                f"test=mcnemar: {known} of one group have the same seed; name two runs, or more keys in by="
            )
        found[seed] = run
    return found


def _count(store: Store, first: "Run", second: "Run") -> tuple[int, int, int]:
    """The number of samples, and of those that one of the runs alone has right."""
    one, two = (_read(store, run) for run in (first, second))
    data = {run.data.tags.get(DATA_FINGERPRINT_TAG) for run in (first, second)}
    keys = ["sample", "target"]
    if len(data) > 1 or not one[keys].equals(two[keys]):
        what = (
            "different data (their fingerprints differ)"
            if len(data) > 1
            else f"different samples ({len(one)} and {len(two)})"
        )
        raise UserError(f"test=mcnemar: {_label(first)} and {_label(second)} were tested on {what}")
    right = [table["target"] == table["prediction"] for table in (one, two)]
    return len(one), int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())


def _read(store: Store, run: "Run") -> pd.DataFrame:
    try:
        table = pd.read_parquet(artifact_path(store, run, FILE))
    except (UserError, ValueError, OSError) as error:
        raise UserError(
            f"test=mcnemar: {_label(run)} has no readable {FILE}: train it with callbacks=[default,test_predictions] ({error})"
        ) from error
    if not {"target", "prediction"} <= set(table) or not pd.api.types.is_integer_dtype(table["target"]):
        raise UserError(f"test=mcnemar: {_label(run)} has no predictions of one class per sample ({FILE})")
    return table


def _label(run: "Run") -> str:
    return f"{run.info.run_id[:8]} ({run.info.run_name})"


def describe(tests: Sequence[McNemar]) -> list[str]:
    """A line for each test, and what several of them mean together."""
    shared = (
        ["the pairs share their test samples, so that their p-values are not independent"] if len(tests) > 1 else []
    )
    return [*map(str, tests), *shared]
