"""Caveats printed below a table: what is left out, and what the number of seeds cannot show."""

from collections.abc import Iterable, Sequence

from lightning_modules.comparison.groups import Group, PairingKey, display_value
from lightning_modules.comparison.result import GroupedRuns, Row
from lightning_modules.report.statistics import MIN_FOR_INTERVAL, min_pairs, smallest_p

MAX_LISTED = 8  # names per line
_RELIABLE_SEEDS = 10  # with fewer seeds, bootstrap intervals are known to be too narrow (Hesterberg 2015)


def data_caveats(found: GroupedRuns, is_default_metric: bool) -> list[str]:
    """Runs and keys that the table leaves out."""
    notes = []
    if is_default_metric and found.metric != "test/accuracy":
        notes.append(f"no run has test/accuracy; comparing {found.metric} instead (choose another with metric=)")
    if unfinished := found.selection.unfinished:
        counts = ", ".join(f"{count} {ended}" for ended, count in sorted(unfinished.items()))
        notes.append(f"left out of {unfinished.total() + len(found.selection.runs)} runs: {counts}")
    if found.without_metric:
        notes.append(f"left out: {found.without_metric} finished runs without {found.metric}")
    odd = [f"{name}: {value}" for group in found.groups for name, value in group.not_finite.items()]
    if odd:
        notes.append(
            f"{found.metric} is not finite in {len(odd)} runs, which are excluded from the means: {_shorten(odd)}"
        )
    return notes + _differing_keys(found) + _seed_caveats(found)


def _differing_keys(found: GroupedRuns) -> list[str]:
    """Keys that vary but do not define groups: within groups, or together with them."""
    within = [key for key in found.others if any(_varies(found, key, group.runs) for group in found.groups)]
    follows = tuple(f"{key}." for key in found.by if "." not in key)  # model.hidden follows from model
    along = [key for key in found.others if key not in within and not key.startswith(follows) and "_target_" not in key]
    notes = []
    if within:
        notes.append(f"runs of the same group differ in {_shorten(within)}, which the table is not grouped by")
    if along:
        notes.append(f"the groups also differ in {_shorten(along)}")
    return notes


def _varies(found: GroupedRuns, key: str, runs: Sequence[str]) -> bool:
    return len({display_value(found.params[run_id], key) for run_id in runs}) > 1


def _seed_caveats(found: GroupedRuns) -> list[str]:
    notes = []
    several = [group for group in found.groups if any(len(values) > 1 for values in group.by_seed.values())]
    if several:
        notes.append(f"in {_plural(several, 'group')} a seed has several runs; their mean is used")
    unseeded = sum(seed[0] == "no seed" for group in found.groups for seed in group.by_seed)
    if unseeded:
        notes.append(
            f"{_plural(unseeded, 'run')} without a recorded seed: each counts as a separate seed without a pair"
        )
    return notes


def sample_size_caveats(rows: Sequence[Row]) -> list[str]:
    """Limits set by the number of seeds."""
    notes = []
    few = [row for row in rows if 0 < row.n < MIN_FOR_INTERVAL]
    if few:
        notes.append(f"{_plural(few, 'group')} with fewer than {MIN_FOR_INTERVAL} seeds: no interval")
    flat = [row for row in rows if row.interval and row.interval.low == row.interval.high]
    if flat:
        notes.append(
            f"{_plural(flat, 'group')} with the same value for all seeds: the interval has zero width and shows no spread"
        )
    if any(MIN_FOR_INTERVAL <= row.n < _RELIABLE_SEEDS for row in rows):
        notes.append(f"bootstrap intervals from fewer than {_RELIABLE_SEEDS} seeds tend to be too narrow")
    return notes


def pairing_caveats(found: GroupedRuns, baseline: Group, rows: Sequence[Row]) -> list[str]:
    """Seeds without a partner in the baseline, and limits set by the number of pairs."""
    base = baseline.by_seed.keys()
    unpaired = [
        f"{'/'.join(group.values)} ({_shorten(_seed_label(seed, found.seed_keys) for seed in sorted(seeds))})"
        for group in found.groups
        if (seeds := group.by_seed.keys() ^ base) and group is not baseline
    ]
    notes = [f"seeds without a partner are excluded from the difference: {_shorten(unpaired)}"] if unpaired else []
    return notes + _too_few_pairs(rows)


def _seed_label(seed: PairingKey, seed_keys: Sequence[str]) -> str:
    if seed[0] == "no seed":
        return f"run {seed[1][:8]}"
    return " ".join(f"{key.rpartition('.')[2]} {part}" for key, part in zip(seed_keys, seed, strict=True))


def _too_few_pairs(rows: Sequence[Row]) -> list[str]:
    differences = [row.difference for row in rows if row.difference is not None]
    tests = sum(d.p is not None for d in differences)
    notes = []
    for pairs in sorted({d.pairs for d in differences}):
        least = smallest_p(pairs)
        if pairs == 0:
            notes.append("no seed in common with the baseline: no difference")
        elif pairs < min_pairs():
            notes.append(
                f"n is too small: with {_plural(pairs, 'pair')} p cannot fall below {least:g}, so no difference can be "
                f"significant at 0.05; at least {min_pairs()} pairs are needed"
            )
        elif pairs < min_pairs(tests):
            notes.append(
                f"with {pairs} pairs the smallest Holm-corrected p over {tests} groups is {least * tests:.3g}; "
                f"{min_pairs(tests)} pairs are needed for significance at 0.05"
            )
    return notes


def _shorten(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - MAX_LISTED} more" if len(listed) > MAX_LISTED else ""
    return ", ".join(listed[:MAX_LISTED]) + more


def _plural(of: int | Sequence[object], what: str) -> str:
    count = of if isinstance(of, int) else len(of)
    return f"{count} {what}{'s' * (count != 1)}"
