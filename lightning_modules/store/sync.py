"""Push local runs to a server; repeating it copies only what is new."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.config.project import runs_folder
from lightning_modules.store.run_copier import RunCopier
from lightning_modules.store.study import study_runs
from lightning_modules.tracking.outbox import deliver_all
from lightning_modules.tracking.secrets import mask_secrets
from lightning_modules.tracking.store import LOCK_SECONDS, Store, find_run, open_store, sqlite_uri
from lightning_modules.tracking.tags import PARENT_RUN_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run


def sync(
    source_uri: str | None = None,
    to_uri: str | None = None,
    runs: Sequence[str] = (),
    experiment: str | None = None,
    study: str | None = None,
) -> list[dict[str, str]]:
    """Send buffered data, and push local runs to a server if requested; print each, and return the pushed runs.

    Args:
        source_uri: the local store; default: MLFLOW_TRACKING_URI if it is local, else the project's store.
        to_uri: the other store, which gets all runs; default: MLFLOW_TRACKING_URI, for the given runs.
        runs: ids, id prefixes or names; default: all. A sweep includes its runs.
        experiment, study: only the runs of this experiment, of this study.

    Raises UserError if a store is not available, both are the same, or a run, experiment or file is invalid.
    """
    environment = os.environ.get("MLFLOW_TRACKING_URI", "")
    server = environment if environment.startswith("http") else None
    source = open_store(source_uri or (sqlite_uri(runs_folder() / "mlflow.db") if server else None))
    if not source.is_local:
        raise UserError(
            f"tracking.uri={mask_secrets(source.uri)}: sync pushes from a SQLite file to a server, not the other way"
        )
    is_push = bool(to_uri or runs or experiment or study)
    target = open_store(to_uri or server) if to_uri or (server and is_push) else None
    if target and target.uri == source.uri:
        raise UserError(f"{mask_secrets(source.uri)} would be synced to itself: to= names another store")
    if is_push and not target:
        raise UserError("say where the runs go: to=http://…, or MLFLOW_TRACKING_URI")
    lock = FileLock(f"{source.path}.sync.lock")  # two concurrent syncs would copy runs twice
    try:
        held = lock.acquire(timeout=LOCK_SECONDS)
    except Timeout as error:
        raise UserError(f"another sync of this store is running (it holds {lock.lock_file})") from error
    with held:
        delivered = deliver_all(source, target)
        if target:
            return _push(source, target, _select_runs(source, runs, experiment, study))
        if not delivered:
            print("there is nothing to deliver; to=http://… pushes the local runs to a server")
    return []


def _select_runs(source: Store, wanted: Sequence[str], experiment: str | None, study: str | None) -> "list[Run]":
    """The runs to push, parents before children, else oldest first."""
    spaces = {space.name: space.experiment_id for space in source.client.search_experiments()}
    if experiment is not None and experiment not in spaces:
        raise UserError(f"experiment={experiment}: there is none of this name; {suggest(experiment, spaces)}")
    within = [spaces[experiment]] if experiment is not None else []
    runs = {run.info.run_id: run for run in source.search_runs(experiments=within)}
    if wanted:
        ids = {find_run(source, name).info.run_id for name in wanted}
        runs = {i: run for i, run in runs.items() if i in ids or _ancestors(run, runs) & ids}
    if study is not None:
        part = {run.info.run_id for run in study_runs(source, study)}
        runs = {run_id: run for run_id, run in runs.items() if run_id in part}
    return sorted(runs.values(), key=lambda run: (len(_ancestors(run, runs)), run.info.start_time))


def _ancestors(run: "Run", runs: "dict[str, Run]") -> set[str]:
    found: set[str] = set()
    parent = run.data.tags.get(PARENT_RUN_TAG)
    while parent and parent not in found:
        found.add(parent)
        parent = runs[parent].data.tags.get(PARENT_RUN_TAG) if parent in runs else None
    return found


def _push(source: Store, target: Store, runs: "list[Run]") -> list[dict[str, str]]:
    copier, pushed = RunCopier(source, target), []
    outcomes = [(run, copier.open(run)) for run in runs]  # create all ids first: tags refer to other runs
    for run, twin in outcomes:
        if twin is None:
            print(f"left {run.info.run_id} ({run.info.run_name}): it was deleted on the server")
            continue
        outcome = str(copier.fill(run, twin))
        pushed.append({"run_id": run.info.run_id, "copy_id": twin.info.run_id, "outcome": outcome})
        print(f"{run.info.run_id} ({run.info.run_name}) -> {twin.info.run_id}: {outcome}")
    where = mask_secrets(target.uri)
    print(
        f"{len(runs)} runs at {where}, {copier.made} of them new" if runs else f"there are no runs to push to {where}"
    )
    return pushed
