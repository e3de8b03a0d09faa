"""Caveats printed below a table: what is left out, and what the number of seeds cannot show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lightning_modules.comparison.grouping_keys import display_value
from lightning_modules.report.statistics import MIN_FOR_INTERVAL, min_pairs, smallest_p

if TYPE_CHECKING:
    from lightning_modules.comparison.compare import ComparisonData, Row

MAX_LISTED = 8  # names per line
_RELIABLE_SEEDS = 10  # with fewer seeds, bootstrap intervals are known to be too narrow (Hesterberg 2015)


def data_caveats(read: ComparisonData, chosen: bool) -> list[str]:
    """Runs and keys that the table leaves out. `chosen`: the metric is the default one."""
    said = []
    if chosen and read.metric != "test/accuracy":
        said.append(f"no run has test/accuracy; comparing {read.metric} instead (choose another with metric=)")
    if read.selection.left_out:
        counts = ", ".join(f"{count} {ended}" for ended, count in sorted(read.selection.left_out.items()))
        total = sum(read.selection.left_out.values())
        said.append(f"left out of {total + len(read.selection.runs)} runs: {counts}")
    if read.without_metric:
        said.append(f"left out: {read.without_metric} finished runs without {read.metric}")
    odd = [f"{name}: {value}" for group in read.groups for name, value in group.not_finite.items()]
    if odd:
        said.append(
            f"{read.metric} is not finite in {len(odd)} runs, which are excluded from the means: {_shorten(odd)}"
        )
    return said + _differing_keys(read) + _averaged_seeds(read) + _missing_seeds(read)


def _differing_keys(read: ComparisonData) -> list[str]:
    """Keys that vary but do not define groups: within groups, or together with them."""
    within = [key for key in read.others if any(_varies(read, key, group.runs) for group in read.groups)]
    follows = tuple(f"{key}." for key in read.by if "." not in key)  # model.hidden follows from model
    along = [key for key in read.others if key not in within and not key.startswith(follows) and "_target_" not in key]
    said = [f"runs of the same group differ in {_shorten(within)}, which the table is not grouped by"] if within else []
    return said + [f"the groups also differ in {_shorten(along)}"] * bool(along)


def _varies(read: ComparisonData, key: str, runs: Sequence[str]) -> bool:
    return len({display_value(read.params[run_id], key) for run_id in runs}) > 1


def _averaged_seeds(read: ComparisonData) -> list[str]:
    several = [group for group in read.groups if any(len(values) > 1 for values in group.by_seed.values())]
    return [f"in {_plural(several, 'group')} a seed has several runs; their mean is used"] * bool(several)


def _missing_seeds(read: ComparisonData) -> list[str]:
    count = sum(seed[0] == "no seed" for group in read.groups for seed in group.by_seed)
    return [f"{_plural(count, 'run')} without a recorded seed: each counts as a separate seed without a pair"] * bool(
        count
    )


def sample_size_caveats(rows: Sequence[Row], read: ComparisonData) -> list[str]:
    """Limits set by the numbers of seeds and pairs."""
    said = []
    few = [row for row in rows if 0 < row.n < MIN_FOR_INTERVAL]
    if few:
        said.append(f"{_plural(few, 'group')} with fewer than {MIN_FOR_INTERVAL} seeds: no interval")
    flat = [row for row in rows if row.interval and row.interval.low == row.interval.high]
    if flat:
        said.append(
            f"{_plural(flat, 'group')} with the same value for all seeds: the interval has zero width and shows no spread"
        )
    if any(MIN_FOR_INTERVAL <= row.n < _RELIABLE_SEEDS for row in rows):
        said.append(f"bootstrap intervals from fewer than {_RELIABLE_SEEDS} seeds tend to be too narrow")
    return said + (_unpaired_seeds(read) + _too_few_pairs(rows) if read.against else [])


def _unpaired_seeds(read: ComparisonData) -> list[str]:
    assert read.against is not None
    base = read.against.by_seed.keys()
    lonely = {
        "/".join(group.values): sorted(group.by_seed.keys() ^ base)
        for group in read.groups
        if group is not read.against and group.by_seed.keys() ^ base
    }
    if not lonely:
        return []
    listed = [
        f"{name} ({_shorten(_seed_label(seed, read.repeats) for seed in seeds)})" for name, seeds in lonely.items()
    ]
    return [f"seeds without a partner are excluded from the difference: {_shorten(listed)}"]


def _seed_label(seed: tuple[str, ...], repeats: Sequence[str]) -> str:
    if seed[0] == "no seed":
        return f"run {seed[1][:8]}"
    return " ".join(f"{key.rpartition('.')[2]} {part}" for key, part in zip(repeats, seed, strict=True))


def _too_few_pairs(rows: Sequence[Row]) -> list[str]:
    differences = [row.difference for row in rows if row.difference is not None]
    tests = sum(d.p is not None for d in differences)
    said = []
    for pairs in sorted({d.pairs for d in differences}):
        least = smallest_p(pairs)
        if pairs == 0:
            said.append("no seed in common with the baseline: no difference")
        elif pairs < min_pairs():
            said.append(f"n is too small: with {_plural(pairs, 'pair')} p cannot fall below {least:g}, so no difference can be "
                        f"significant at 0.05; at least {min_pairs()} pairs are needed")  # fmt: skip
        elif pairs < min_pairs(tests):
            said.append(f"with {pairs} pairs the smallest Holm-corrected p over {tests} groups is {least * tests:.3g}; "
                        f"{min_pairs(tests)} pairs are needed for significance at 0.05")  # fmt: skip
    return said


def _shorten(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - MAX_LISTED} more" if len(listed) > MAX_LISTED else ""
    return ", ".join(listed[:MAX_LISTED]) + more


def _plural(of: int | Sequence[object], what: str) -> str:
    count = of if isinstance(of, int) else len(of)
    return f"{count} {what}{'s' * (count != 1)}"
