"""``touchstone store``: look after the store of runs."""

from pathlib import Path
from typing import Annotated, Literal

from lightning_modules.cli.arguments import verb
from lightning_modules.config.errors import UserError

KEYS = {"relocate": {"from", "dry_run"}, "sync": {"to", "runs", "experiment"}, "prune": {"dry_run"}, "upgrade": set()}


@verb(
    "sync|relocate|prune|upgrade [KEY=VALUE …]",
    ("sync to=http://127.0.0.1:5000 runs=my-sweep", "relocate dry_run=true", "prune dry_run=true", "upgrade"),
    {"--store": "tracking.uri"},
)
def main(
    target: Annotated[Literal["relocate", "sync", "prune", "upgrade"], "relocate, sync, prune or upgrade"],
    tracking__uri: Annotated[str | None, "the local store (default: MLFLOW_TRACKING_URI or mlruns/mlflow.db)"] = None,
    from_: Annotated[Path | None, "relocate: the old folder (default: found where it is gone)"] = None,
    to: Annotated[str | None, "sync: push to this server; for runs= and experiment= also MLFLOW_TRACKING_URI"] = None,
    runs: Annotated[list[str] | None, "sync: ids or names; a sweep includes its runs"] = None,
    experiment: Annotated[str | None, "sync: only the runs of this experiment"] = None,
    dry_run: Annotated[bool, "relocate, prune: only print what would be done"] = False,
) -> None:
    """Look after the store of runs. relocate: find the artifacts again after the project's folder has moved. sync: send the
    data that were buffered while a server was unavailable, and push local runs to a server. prune: delete deleted runs for
    good, with their files, and files that belong to no run. upgrade: bring the database of an older MLflow to the schema of
    the installed one, after a backup."""
    given = {"from": from_, "to": to, "runs": runs, "experiment": experiment, "dry_run": dry_run or None}
    if wrong := [key for key, value in given.items() if value is not None and key not in KEYS[target]]:
        raise UserError(f"store {target} has no {' and no '.join(f'{key}=' for key in wrong)}")
    if target == "sync":
        from lightning_modules.store.sync import sync

        sync(tracking__uri, to, runs or [], experiment)
        return
    if target == "upgrade":
        from lightning_modules.store.upgrade import upgrade
        from lightning_modules.tracking.store import store_uri

        upgrade(store_uri(tracking__uri))
        return
    from lightning_modules.store.gc import gc
    from lightning_modules.store.relocate import relocate
    from lightning_modules.tracking.store import open_store

    store = open_store(tracking__uri)
    if target == "prune":
        gc(store, dry_run)
    else:
        relocate(store, from_, dry_run)
