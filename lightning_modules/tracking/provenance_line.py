"""Where runs came from, as a line below a table: day, commit, machine and versions."""

import json
from collections.abc import Iterable
from datetime import date
from typing import TYPE_CHECKING, NamedTuple

from lightning_modules.config.errors import UserError
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.store import Store
from lightning_modules.tracking.tags import GIT_COMMIT_TAG, GIT_DIRTY_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run

SHOWN_PACKAGES = ("torch", "pytorch-lightning", "mlflow")


class RunProvenance(NamedTuple):
    """Where runs came from: the last day, their commits (``+`` where the tree was not clean), their machines and versions."""

    date: str
    commit: str
    machine: str


NO_PROVENANCE = RunProvenance("", "", "")  # of claims without a run


def provenance_of(store: Store, run_ids: Iterable[str]) -> RunProvenance:
    """What the runs themselves recorded; nothing of the process that judges them."""
    runs = [store.client.get_run(run_id) for run_id in run_ids]
    days = [str(date.fromtimestamp((run.info.end_time or run.info.start_time) / 1000)) for run in runs]
    dirty = ["+" * (run.data.tags.get(GIT_DIRTY_TAG) == "true") for run in runs]
    hashes = [run.data.tags.get(GIT_COMMIT_TAG, "")[:7] for run in runs]
    commits = dict.fromkeys(name + mark for name, mark in zip(hashes, dirty, strict=True) if name)
    machines = dict.fromkeys(_machine(store, run) for run in runs)
    return RunProvenance(max(days, default=""), " ".join(commits), "; ".join(machines))


def _machine(store: Store, run: "Run") -> str:
    try:
        machine = json.loads(artifact_path(store, run, "environment/hardware.json").read_text())
        listed = artifact_path(store, run, "environment/requirements.txt").read_text().splitlines()
    except (UserError, ValueError):
        return "an unknown machine"
    versions = dict(line.split("==", 1) for line in listed)
    packages = ", ".join(f"{name} {versions[name].partition('+')[0]}" for name in SHOWN_PACKAGES if name in versions)
    gpus = ", ".join(gpu["name"] for gpu in machine["gpus"]) or "no GPU"
    return f"{machine['cpu']}, {machine['cores_logical']} cores, {gpus}, Python {machine['python']}, {packages}"
