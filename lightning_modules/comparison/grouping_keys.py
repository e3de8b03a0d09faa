"""Params that distinguish runs, and params that only mark a run as a repetition (seeds, folds)."""

import re
from collections.abc import Iterable, Mapping, Sequence

from lightning_modules.comparison.run_reader import RunReader
from lightning_modules.comparison.selection import Selection
from lightning_modules.config.errors import UserError, suggest

Params = Mapping[str, str]
SEED_PATTERN = re.compile(r"(^|[._])(seed|fold)$")
SEED_KEYS = ("seed", "data.seed", "data.split_seed", "data.fold")  # runs that share these are paired
_BOOKKEEPING_GROUPS = (
    r"^(name|resume|sweep|hydra|tracking|choices|callbacks\.(progress|summary|learning_rate|last))(\.|$)"
)
_MACHINE_KEYS = (
    r"(^|[._])(root|path|dir|dirpath|folder|file|uri|download|expected_fingerprint|num_workers|cpu_threads)$"
)
BOOKKEEPING = re.compile(f"{_BOOKKEEPING_GROUPS}|{_MACHINE_KEYS}")  # may differ between runs of the same experiment


def display_value(params: Params, key: str) -> str:
    """The value as shown in tables. A config group that a run does not have is ``none``."""
    return params.get(key) or ("–" if "." in key else "none")


def candidate_keys(reader: RunReader, selection: Selection) -> list[str]:
    """Keys in which the runs may differ: the swept ones, otherwise every param that varies."""
    if selection.swept is not None:
        return list(selection.swept)
    varying = reader.param_names([run.run_id for run in selection.runs], varying=True)
    return sorted((key for key in varying if not BOOKKEEPING.search(key)), key=_sort_key)


def _sort_key(key: str) -> tuple[bool, int, str]:
    return "_target_" in key, key.count("."), key  # groups before their settings


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
