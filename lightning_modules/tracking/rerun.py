"""Rerun a recorded config on the recorded code and compare all metrics.

Longer than 200 lines: finding the code, running it, and the verdict are one command.
"""

import contextlib
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf, open_dict

from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict, to_plain
from lightning_modules.config.project import code_folder, home
from lightning_modules.report.numbers import shortest_decimal
from lightning_modules.report.tables import open_console, terminal_table
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.provenance import git_state, hardware, is_commit, package_versions, repository_of
from lightning_modules.tracking.resume import recorded_config
from lightning_modules.tracking.store import Store, find_run, open_store
from lightning_modules.tracking.tags import (
    DATA_FINGERPRINT_TAG,
    DECLARED,
    GIT_COMMIT_TAG,
    GIT_DIRTY_TAG,
    GIT_NOTE_TAG,
    RERUN_OF_TAG,
)
from lightning_modules.tracking.user_code import digest, user_modules

if TYPE_CHECKING:
    from mlflow.entities import Run


def rerun(wanted: str, here: bool = False) -> str:
    """Rerun `wanted` as a new run, print each metric as equal or different, exit with 1 if one differs; return its id.

    Args:
        wanted: id, id prefix or name of a run.
        here: use the code of this working tree instead of the recorded commit and diff.

    Raises UserError if the run, its code or its data are not available, or the rerun fails.
    """
    store = open_store()
    run = find_run(store, wanted)
    cfg = recorded_config(store, run)  # before any of its code is checked out
    modules = user_modules(to_plain(cfg, resolve=False))
    with contextlib.ExitStack() as stack:
        if here:
            code, trees = code_folder(), dict[Path, Path]()
            print_code_changes(run)
        else:
            code = stack.enter_context(recorded_code(store, run))
            trees = stack.enter_context(_recorded_repositories(store, run, modules)) | {code_folder().resolve(): code}
        _print_user_code_changes(store, run, modules, trees)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        new = _start_rerun(store, run, cfg, code, _import_folders(modules, trees), scratch)
    different = _compare(store, run.info.run_id, new) + _compare_data(store, run, new)
    if different:
        _print_environment_changes(store, run)
        sys.exit(1)
    return new


@contextlib.contextmanager
def recorded_code(store: Store, run: "Run") -> Iterator[Path]:
    """A temporary git worktree of the recorded commit, with the recorded diff applied."""
    patch = None
    if run.data.tags.get(GIT_DIRTY_TAG) == "true":
        try:
            patch = artifact_path(store, run, "code/diff.patch")
        except UserError:  # the only changed files were left out of the diff
            print(f"code: {run.data.tags.get(GIT_NOTE_TAG, 'the changes were not recorded')}")
    top = repository_of(code_folder()) or code_folder()
    with _check_out(top, run.data.tags.get(GIT_COMMIT_TAG), patch) as tree:
        yield tree / code_folder().resolve().relative_to(top)


@contextlib.contextmanager
def _recorded_repositories(store: Store, run: "Run", modules: Mapping[str, Path]) -> Iterator[dict[Path, Path]]:
    """The repositories that the user's own `modules` are in today, each with a temporary worktree of what was recorded."""
    recorded, trees = _recorded_modules(store, run), {}
    with contextlib.ExitStack() as stack:
        for place, git in recorded["repositories"].items():
            names = [name for name, module in recorded["modules"].items() if Path(module["file"]).is_relative_to(place)]
            top = next((repository_of(modules[name].parent) for name in names if name in modules), None)
            if top is None:
                raise UserError(
                    f"the recorded code of {', '.join(names)} is not available: expected a clone of {git['remote'] or place} "
                    "on PYTHONPATH; use here=true to run with the current code"
                )
            patch = artifact_path(store, run, git["diff"]) if git["diff"] else None
            trees[top] = stack.enter_context(_check_out(top, git["commit"], patch))
        yield trees


@contextlib.contextmanager
def _check_out(top: Path, commit: str | None, patch: Path | None) -> Iterator[Path]:
    """A temporary worktree of a commit of the repository `top`, with a diff applied."""
    if not is_commit(commit):
        raise UserError(f"{top}: the run has no recorded commit of it; use here=true to run with the current code")
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "code"
        _git("worktree", "add", "--detach", str(tree), str(commit), cwd=top)
        try:
            if patch and patch.stat().st_size:
                _git("apply", "--whitespace=nowarn", str(patch), cwd=tree)
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree), cwd=top)


def _import_folders(modules: Mapping[str, Path], trees: Mapping[Path, Path]) -> list[str]:
    """The folders of the worktrees from which `modules` are imported."""
    found = []
    for name, file in modules.items():
        root = file.resolve().parents[name.count(".") + (file.stem == "__init__")]
        found += [str(tree / root.relative_to(top)) for top, tree in trees.items() if root.is_relative_to(top)][:1]
    return list(dict.fromkeys(found))


def _git(*arguments: str, cwd: Path | None = None) -> None:
    done = subprocess.run(["git", *arguments], cwd=cwd or code_folder(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(
            f"cannot check out the recorded code of {cwd or code_folder()}; use here=true to run with the current code: "
            f"git {arguments[0]} failed:\n{done.stderr.strip()}"
        )


def _start_rerun(store: Store, run: "Run", cfg: DictConfig, code: Path, paths: list[str], folder: Path) -> str:
    """Run the recorded config in a subprocess with the code of `code` and of `paths`; return the id of the new run."""
    with open_dict(cfg):
        if "expected_fingerprint" in cfg.data:  # of our datamodules
            cfg.data.expected_fingerprint = run.data.tags.get(DATA_FINGERPRINT_TAG)
        cfg.resume = None
        cfg.name = f"{run.info.run_name}-rerun"
    path = folder / "config.yaml"
    OmegaConf.save(cfg, path)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(code), *paths, os.environ.get("PYTHONPATH"), str(Path.cwd())])),
        "MLFLOW_TRACKING_URI": store.uri,
        "TOUCHSTONE_DATA": os.environ.get("TOUCHSTONE_DATA", str(home() / "data")),
    }
    command = [sys.executable, "-m", "lightning_modules.recorded", str(path), run.info.run_id]
    status = subprocess.run(command, env=environment, cwd=code, check=False).returncode
    found = store.newest_run(f"tags.`{RERUN_OF_TAG}` = '{run.info.run_id}'", run.info.experiment_id)
    if status or not found:
        raise UserError(f"the rerun of {run.info.run_id} failed with exit code {status}")
    return str(found.info.run_id)


def metric_histories(store: Store, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """All points (step, value) of each metric of a run, except system metrics and timings."""
    timed = ("system/", "model/latency", "throughput/", "comm/time_s", "comm/exposed_s", "comm/slowest")
    names = [name for name in store.client.get_run(run_id).data.metrics if not name.startswith(timed)]
    return {n: [(p.step, p.value) for p in store.client.get_metric_history(run_id, n)] for n in sorted(names)}


def first_difference(old: list[tuple[int, float]], new: list[tuple[int, float]]) -> int | None:
    """The first step whose value differs or is missing on one side; None if all are equal (NaN equals NaN)."""
    for a, b in itertools.zip_longest(sorted(old), sorted(new)):
        if a is None or b is None:
            return (a or b)[0]
        same = shortest_decimal(a[1]) == shortest_decimal(b[1])  # earlier versions recorded all digits of a float32
        if a[0] != b[0] or not (same or (math.isnan(a[1]) and math.isnan(b[1]))):
            return min(a[0], b[0])
    return None


def _compare_data(store: Store, run: "Run", new_id: str) -> bool:
    """Whether the data differ; print it, or that it is not known."""
    recorded, now = (
        tags.get(DATA_FINGERPRINT_TAG, "") for tags in (run.data.tags, store.client.get_run(new_id).data.tags)
    )
    if recorded != now:
        print(f"data: other values than recorded (fingerprint {recorded[:20]}, now {now[:20]})")
    elif recorded.startswith(DECLARED):
        print("data: whether the values are those of the record is unknown: they have no fingerprint (data.data_files)")
    return recorded != now


def _compare(store: Store, old_id: str, new_id: str) -> int:
    old, new = metric_histories(store, old_id), metric_histories(store, new_id)
    names, rows, different = sorted(old.keys() | new.keys()), [], 0
    for name in names:
        a, b = old.get(name, []), new.get(name, [])
        step = first_difference(a, b)
        different += step is not None
        outcome = "equal" if step is None else f"different from step {step}"
        rows.append([name, str(len(a)), outcome, *(f"{max(side)[1]:.6g}" if side else "-" for side in (a, b))])
    columns = ["metric", "points", "outcome", "recorded", "now"]
    open_console().print(terminal_table(columns, rows, left=(0, 2), title=f"{old_id} and its rerun {new_id}"))
    print(f"{different} of {len(names)} metrics are different" if different else "all metrics are equal")
    return different


def print_code_changes(run: "Run") -> None:
    """Print how the code here differs from the recorded commit of a run."""
    then, now = run.data.tags.get(GIT_COMMIT_TAG), git_state(code_folder())
    if not is_commit(then) or not now.commit:
        print("code: cannot compare, because the commit is unknown in the record or here")
        return
    command = ["git", "diff", "--stat", then]
    shown = subprocess.run(command, cwd=code_folder(), capture_output=True, text=True, check=False)
    dirty = {True: " with uncommitted changes", False: ""}
    recorded = f"{then[:10]}{dirty[run.data.tags.get(GIT_DIRTY_TAG) == 'true']}"
    print(f"code: recorded on {recorded}; here {now.commit[:10]}{dirty[now.dirty]}")
    print(shown.stdout.strip() or "  no tracked file differs from that commit")


def _recorded_modules(store: Store, run: "Run") -> PlainDict:
    try:
        return json.loads(artifact_path(store, run, "code/modules.json").read_text())
    except UserError:  # the run used none
        return {"modules": {}, "repositories": {}}


def _print_user_code_changes(
    store: Store, run: "Run", modules: Mapping[str, Path], trees: Mapping[Path, Path] | None = None
) -> None:
    """Warn about the user's own modules that differ from the record and are not in checked out repositories."""
    recorded = _recorded_modules(store, run)
    hashes, now = {name: module["sha256"] for name, module in recorded["modules"].items()}, digest(modules)
    inside = {name for name, file in modules.items() if any(file.resolve().is_relative_to(top) for top in trees or ())}
    if changed := sorted(name for name in {*hashes, *now} - inside if hashes.get(name) != now.get(name)):
        print(
            f"warning: your own code differs from the record; the current code is used: {', '.join(changed)}; "
            f"the recorded commits are in the artifact code/modules.json: {', '.join(recorded['repositories']) or 'none'}"
        )


def _print_environment_changes(store: Store, run: "Run") -> None:
    packages = artifact_path(store, run, "environment/requirements.txt").read_text().split()
    machine = json.loads(artifact_path(store, run, "environment/hardware.json").read_text())
    today = {key: value for key, value in hardware().items() if key in machine}
    for then, now in ((dict(line.split("==", 1) for line in packages), package_versions()), (machine, today)):
        for key in sorted(then.keys() | now.keys()):
            if then.get(key) != now.get(key):
                print(f"  {key}: recorded {then.get(key)}, now {now.get(key)}")
