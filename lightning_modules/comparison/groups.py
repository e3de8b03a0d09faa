"""Groups of runs: the keys that define them, the keys that only mark repetitions, and one value per seed in each group."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lightning_modules.comparison.run_reader import Run, RunReader
from lightning_modules.comparison.selection import Selection
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.report.numbers import EMPTY
from lightning_modules.tracking.params import BOOKKEEPING, display_order

Params = Mapping[str, str]
PairingKey = tuple[str, ...]  # seed, split seed and fold; the run's id if no seed is recorded
SEED_PATTERN = re.compile(r"(^|[._])(seed|fold)$")
SEED_KEYS = ("seed", "data.seed", "data.split_seed", "data.fold")  # runs that share these are paired
_MACHINE_KEYS = re.compile(  # may differ between runs of the same experiment
    r"(^|[._])(root|path|dir|dirpath|folder|file|uri|download|expected_fingerprint|num_workers|cpu_threads)$"
)


def display_value(params: Params, key: str) -> str:
    """The value as shown in tables. A config group that a run does not have is ``none``."""
    return params.get(key) or (EMPTY if "." in key else "none")


def candidate_keys(reader: RunReader, selection: Selection) -> list[str]:
    """Keys in which the runs may differ: the swept ones, otherwise every param that varies."""
    if selection.swept is not None:
        return list(selection.swept)
    varying = reader.param_names([run.run_id for run in selection.runs], varying=True)
    return sorted(
        (key for key in varying if not (BOOKKEEPING.match(key) or _MACHINE_KEYS.search(key))), key=display_order
    )


def minimal_keys(keys: Sequence[str], rows: Sequence[Params]) -> list[str]:
    """The first of `keys` that separate `rows` (one per run) as finely as all of them: ``model``, not what follows from it."""
    chosen: list[str] = []
    labels: list[tuple[str, ...]] = [()] * len(rows)
    for key in keys:
        finer = [(*label, display_value(row, key)) for label, row in zip(labels, rows, strict=True)]
        if len(set(finer)) > len(set(labels)):
            chosen, labels = [*chosen, key], finer
    return chosen


def require_known_params(reader: RunReader, selection: Selection, keys: Iterable[str]) -> None:
    """Raise UserError for a key that no run has as a param."""
    known = reader.param_names([run.run_id for run in selection.runs]) | set(selection.swept or ())
    for key in keys:
        if key not in known:
            raise UserError(f"by=: no run has the param '{key}'; {_suggest_param(key, known)}")


def _suggest_param(key: str, known: set[str]) -> str:
    ends = sorted(name for name in known if name.endswith(f".{key}"))[:3]
    if ends:
        return "did you mean " + " or ".join(f"'{name}'" for name in ends) + "?"
    return suggest(key, (name for name in known if "_target_" not in name))


def parse_baseline(text: str, by: Sequence[str]) -> dict[str, str]:
    """``model=mlp,optimizer.lr=0.1`` as a mapping. Raises UserError if it is not key=value, or a key is not in `by`."""
    wanted: dict[str, str] = {}
    for part in re.split(r",(?=[\w.@/]+=)", text):
        key, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"baseline={text}: expected key=value or key=value,key=value")
        if key not in by:
            raise UserError(f"baseline={text}: the table is not grouped by '{key}'; {suggest(key, by)}")
        wanted[key] = value
    return wanted


def same_value(a: str, b: str) -> bool:
    """Whether two values are equal as text or as numbers (0.1 and 1e-1)."""
    try:
        return a == b or float(a) == float(b)
    except ValueError:
        return False


@dataclass
class Group:
    """Runs that differ only in their seeds.

    Attributes:
        values: of each grouping key.
        by_seed: the finite values of each seed (several if runs differ in a key that does not define groups).
        not_finite: run name -> value, where the metric is NaN or infinite.
    """

    values: tuple[str, ...]
    by_seed: dict[PairingKey, list[float]] = field(default_factory=dict)
    not_finite: dict[str, float] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)

    def points(self) -> dict[PairingKey, float]:
        """The mean of each seed, in the order of the seeds."""
        return {
            seed: math.fsum(v) / len(v)
            for seed, v in sorted(self.by_seed.items(), key=lambda item: _seed_order(item[0]))
        }


def _seed_order(seed: PairingKey) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in seed]


def group_runs(
    runs: Sequence[Run],
    values: Mapping[str, float],
    params: Mapping[str, Params],
    by: Sequence[str],
    repeats: Sequence[str],
) -> list[Group]:
    """One group per combination of the values of `by`. Runs without the metric are left out."""
    groups: dict[tuple[str, ...], Group] = {}
    for run in runs:
        if run.run_id not in values:
            continue
        of_run, value = params.get(run.run_id, {}), values[run.run_id]
        key = tuple(display_value(of_run, name) for name in by)
        group = groups.setdefault(key, Group(key))
        group.runs.append(run.run_id)
        if math.isfinite(value):
            group.by_seed.setdefault(pairing_key(run, of_run, repeats), []).append(value)
        else:
            group.not_finite[f"{run.name} {run.run_id[:8]}"] = value
    return [groups[key] for key in sorted(groups)]


def pairing_key(run: Run, params: Params, repeats: Sequence[str]) -> PairingKey:
    """The key that pairs two runs of different groups. A run without a recorded seed has no partner."""
    if not any(params.get(key, "None") != "None" for key in repeats):
        return ("no seed", run.run_id)
    return tuple(params.get(key, "") for key in repeats)


def find_baseline(groups: Sequence[Group], by: Sequence[str], wanted: Mapping[str, str]) -> Group:
    """The only group with all values of `wanted`. Raises UserError with the list of groups if none or several match."""
    places = [(by.index(key), value) for key, value in wanted.items()]
    found = [group for group in groups if all(same_value(group.values[i], value) for i, value in places)]
    if len(found) == 1:
        return found[0]
    text = ",".join(f"{key}={value}" for key, value in wanted.items())
    listed = "; ".join(",".join(map("=".join, zip(by, group.values, strict=True))) for group in (found or groups)[:20])
    raise UserError(f"baseline={text} matches {len(found) or 'no'} group{'s' * (len(found) != 1)} of: {listed}")
