"""What differs between two recorded runs: config, code, data, packages and metrics."""

import hashlib
import json
import subprocess
from typing import TYPE_CHECKING

import yaml

from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict, flatten
from lightning_modules.config.project import code_folder
from lightning_modules.report.numbers import EMPTY
from lightning_modules.report.tables import open_console, terminal_table
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.provenance import is_commit
from lightning_modules.tracking.store import Store, find_run
from lightning_modules.tracking.tags import GIT_COMMIT_TAG, GIT_DIRTY_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run

_ABOUT_THE_RECORD = ("name", "overrides", "tracking.", "resume", "sweep.", "hydra.")  # not what was trained


def diff_runs(store: Store, first: str, second: str) -> dict[str, object]:
    """The two runs, and by subject (config, code, data, packages, metrics) the keys that differ with both values.

    A key that a run does not have is None there. The code's ``changed: FILE`` are what git reports between the two commits,
    if both are in this clone.

    Raises UserError if a run is unknown, or if both are the same.
    """
    runs = [find_run(store, wanted) for wanted in (first, second)]
    ids = [run.info.run_id for run in runs]
    if ids[0] == ids[1]:
        raise UserError(f"diff=[{first},{second}]: both are run {ids[0]}; name two runs")
    found: PlainDict = {"runs": [{"run_id": run.info.run_id, "name": run.info.run_name} for run in runs]}
    for subject, read in (("config", _config), ("code", _code), ("data", _data), ("packages", _packages)):
        found[subject] = _differing(read(store, runs[0]), read(store, runs[1]))
    changed = _changed_files(*(run.data.tags.get(GIT_COMMIT_TAG, "") for run in runs))
    found["code"] |= {f"changed: {name}": [None, None] for name in changed}
    found["metrics"] = _differing(*(_metrics(run) for run in runs))
    return found


def print_diff(found: PlainDict) -> None:
    """Print a table for each subject that differs, and name those that are equal."""
    console, names = open_console(), [f"{run['name']} {run['run_id'][:8]}" for run in found["runs"]]
    same = []
    for subject, values in found.items():
        if subject == "runs":
            continue
        if not values:
            same.append(subject)
            continue
        is_number = subject == "metrics"
        rows = [[key, *map(_shown, pair), *([_change(*pair)] if is_number else [])] for key, pair in values.items()]
        columns = [subject, *names, *(["change"] if is_number else [])]
        console.print(terminal_table(columns, rows, left=(0,) if is_number else (0, 1, 2)))
    if same:
        console.print(f"equal: {', '.join(same)}", markup=False)


def _differing(first: PlainDict, second: PlainDict) -> dict[str, list[object]]:
    keys = sorted(first.keys() | second.keys())
    return {key: [first.get(key), second.get(key)] for key in keys if first.get(key) != second.get(key)}


def _artifact(store: Store, run: "Run", path: str) -> str:
    """The text of an artifact; empty if the run has none, as one of another tool."""
    try:
        return artifact_path(store, run, path).read_text(encoding="utf-8")
    except UserError:
        return ""


def _config(store: Store, run: "Run") -> PlainDict:
    recorded = yaml.safe_load(_artifact(store, run, "config/config.yaml") or "null")
    values = flatten(recorded) if recorded else dict(run.data.params)
    return {key: value for key, value in values.items() if not key.startswith(_ABOUT_THE_RECORD)}


def _code(store: Store, run: "Run") -> PlainDict:
    tags, patch = run.data.tags, _artifact(store, run, "code/diff.patch")
    own = json.loads(_artifact(store, run, "code/modules.json") or '{"modules": {}}')["modules"]
    return {
        "commit": tags.get(GIT_COMMIT_TAG),
        "uncommitted changes": tags.get(GIT_DIRTY_TAG),
        "diff.patch": hashlib.sha256(patch.encode()).hexdigest()[:12] if patch else None,
        **{f"module {name}": module["sha256"][:12] for name, module in own.items()},
    }


def _changed_files(first: str, second: str) -> list[str]:
    """The files that differ between two commits of this project; none if git does not have both."""
    if not is_commit(first) or not is_commit(second) or first == second:
        return []
    command = ["git", "diff", "--name-only", first, second, "--"]
    done = subprocess.run(command, cwd=code_folder(), capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []


def _data(store: Store, run: "Run") -> PlainDict:
    return {key: value for key, value in run.data.tags.items() if key.startswith("data.")}


def _packages(store: Store, run: "Run") -> PlainDict:
    lines = _artifact(store, run, "environment/requirements.txt").splitlines()
    return {name: version for name, equals, version in (line.partition("==") for line in lines) if equals}


def _metrics(run: "Run") -> PlainDict:
    return {name: value for name, value in run.data.metrics.items() if not name.startswith("system/")}


def _shown(value: object) -> str:
    return EMPTY if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _change(first: float | None, second: float | None) -> str:
    return EMPTY if first is None or second is None else f"{second - first:+.4g}"
