"""``touchstone store``: look after the store of runs."""

from pathlib import Path
from typing import Annotated, Literal

from lightning_modules.cli.arguments import verb
from lightning_modules.config.errors import UserError

KEYS = {
    "relocate": {"from", "dry_run"},
    "sync": {"to", "runs", "experiment", "study"},
    "prune": {"dry_run"},
    "upgrade": set(),
    "delete": {"runs", "study", "dry_run"},
    "restore": {"runs", "study", "dry_run"},
    "keep": {"runs", "study"},
    "unkeep": {"runs", "study"},
    "note": {"runs", "study", "text", "tags"},
}
Action = Literal["relocate", "sync", "prune", "upgrade", "delete", "restore", "keep", "unkeep", "note"]


@verb(
    "ACTION [RUN…] [KEY=VALUE …]",
    (
        "sync to=http://127.0.0.1:5000 runs=my-sweep",
        "relocate dry_run=true",
        "delete my-sweep 3e782338",
        "restore my-sweep",
        "delete study=augmentation_paper dry_run=true",
        "keep 3e782338",
        "note 3e782338 text='the one of the paper' tags=paper=yes,reviewed=",
        "prune dry_run=true",
        "upgrade",
    ),
    {"--store": "tracking.uri"},
)
def main(
    target: Annotated[Action, "delete, restore, keep, unkeep, note, sync, relocate, prune or upgrade"],
    runs: Annotated[list[str] | None, "RUN…: ids or names; a sweep includes its runs (not for note)"] = None,
    tracking__uri: Annotated[str | None, "the local store (default: MLFLOW_TRACKING_URI or mlruns/mlflow.db)"] = None,
    from_: Annotated[Path | None, "relocate: the old folder (default: found where it is gone)"] = None,
    to: Annotated[str | None, "sync: push to this server; for runs= and experiment= also MLFLOW_TRACKING_URI"] = None,
    experiment: Annotated[str | None, "sync: only the runs of this experiment"] = None,
    study: Annotated[str | None, "all runs of this study, in place of RUN…; sync: only these"] = None,
    text: Annotated[str | None, "note: a paragraph at the top of the description"] = None,
    tags: Annotated[list[str] | None, "note: KEY=VALUE,… sets tags, KEY= removes one"] = None,
    dry_run: Annotated[bool, "relocate, prune, delete, restore: only print what would be done"] = False,
) -> object:
    """Look after the store of runs. relocate: find the artifacts again after the project's folder has moved. sync: send the
    data that were buffered while a server was unavailable, and push local runs to a server. delete: delete runs, and sweeps
    with all their runs, until restore brings them back. keep: exclude runs from delete and prune, until unkeep. note: add to
    the description and the tags. prune: delete deleted runs for good, with their files, and files that belong to no run.
    upgrade: bring the database of an older MLflow to the schema of the installed one, after a backup."""
    given = {"from": from_, "to": to, "runs": runs, "experiment": experiment, "study": study}
    given |= {"text": text, "tags": tags}
    wrong = [key for key, value in {**given, "dry_run": dry_run or None}.items() if value and key not in KEYS[target]]
    if wrong:
        raise UserError(f"store {target} has no {' and no '.join(f'{key}=' for key in wrong)}")
    if target == "sync":
        from lightning_modules.store.sync import sync

        return sync(tracking__uri, to, runs or [], experiment, study)
    if target == "upgrade":
        from lightning_modules.store.upgrade import upgrade
        from lightning_modules.tracking.store import store_uri

        upgrade(store_uri(tracking__uri))
        return None
    from lightning_modules.store import deletion
    from lightning_modules.store.gc import gc
    from lightning_modules.store.relocate import relocate
    from lightning_modules.tracking.store import open_store

    if "runs" in KEYS[target] and bool(runs) == (study is not None):
        missing = "RUN is missing: id, its first 6 or more characters, or name; or study=NAME"
        raise UserError(f"store {target}: {'study= stands for its runs: name no RUN' if runs else missing}")
    store, named = open_store(tracking__uri), runs or []
    if target == "prune":
        return {"bytes": gc(store, dry_run)}
    if target == "relocate":
        return {"uris": relocate(store, from_, dry_run)}
    if target in ("keep", "unkeep"):
        return deletion.keep(store, named, target == "keep", study)
    if target == "note":
        return deletion.annotate(store, named, text, tags or [], study)
    return (deletion.delete if target == "delete" else deletion.restore)(store, named, dry_run, study)
