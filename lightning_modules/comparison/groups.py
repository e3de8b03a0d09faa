"""Runs grouped by their settings, with one value per seed in each group."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lightning_modules.comparison.grouping_keys import Params, display_value, same_value
from lightning_modules.comparison.run_reader import Run
from lightning_modules.config.errors import UserError

PairingKey = tuple[str, ...]  # seed, split seed and fold; the run's id if no seed is recorded


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
