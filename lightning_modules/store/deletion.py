"""Delete runs with all runs below them, restore them until the next prune, and keep runs from deletion."""

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_modules.config.errors import UserError
from lightning_modules.store.study import ACTIVE, DELETED, study_runs
from lightning_modules.tracking.liveness import is_alive
from lightning_modules.tracking.store import Store, find_run
from lightning_modules.tracking.tags import KEEP_TAG, NOTE_TAG, PARENT_RUN_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run

_RESERVED = (
    "mlflow.",
    "touchstone.",
    "sweep.",
    "claim",
    "data.",
    "git.",
    "resume",
    "verdict",
    "comparison.",
    "budget.",
)


def delete(
    store: Store, targets: Sequence[str], dry_run: bool = False, study: str | None = None
) -> list[dict[str, object]]:
    """Delete runs, or those of a study, and all runs below them: `restore` undoes it until `gc` deletes their files.

    Kept runs below a target stay, and with them the runs that they are below of. Returns the deleted runs.

    Raises UserError, before anything is deleted, if a target is unknown or kept, or if a run is still training.
    """
    runs = _with_children(store, targets, study, ACTIVE)
    training = [_label(run) for run in runs.values() if run.info.status == "RUNNING" and is_alive(run.data.tags)]
    if training:
        raise UserError(f"still training, and not deleted: {', '.join(training)}; stop them first")
    for run in (find_run(store, target) for target in targets):
        if KEEP_TAG in run.data.tags:
            raise UserError(
                f"{_label(run)} is kept; allow its deletion with: touchstone store unkeep {run.info.run_id}"
            )
    stay = {kept for run_id, run in runs.items() if KEEP_TAG in run.data.tags for kept in _ancestors(run_id, runs)}
    for run_id in sorted(stay):
        reason = "it is kept" if KEEP_TAG in runs[run_id].data.tags else "a run below it is kept"
        print(f"left {_label(runs[run_id])}: {reason}")
    chosen = [run for run_id, run in runs.items() if run_id not in stay]
    for run in chosen:
        if not dry_run:
            store.client.delete_run(run.info.run_id)
        print(f"{'would delete' if dry_run else 'deleted'} {_label(run)}")
    if chosen and not dry_run:
        named = [f"study={study}"] if study else targets
        print(f"undo: touchstone store restore {shlex.join(named)}   (until touchstone store prune)")
    return _plain(chosen)


def restore(
    store: Store, targets: Sequence[str], dry_run: bool = False, study: str | None = None
) -> list[dict[str, object]]:
    """Undo the deletion of runs and of all deleted runs below them; return them."""
    runs = list(_with_children(store, targets, study, DELETED).values())
    for run in runs:
        if not dry_run:
            store.client.restore_run(run.info.run_id)
        print(f"{'would restore' if dry_run else 'restored'} {_label(run)}")
    return _plain(runs)


def keep(store: Store, targets: Sequence[str], kept: bool = True, study: str | None = None) -> list[dict[str, object]]:
    """Exclude runs and all runs below them from deletion, or with `kept=False` admit it again; return them."""
    runs = list(_with_children(store, targets, study, ACTIVE).values())
    for run in runs:
        if kept:
            store.client.set_tag(run.info.run_id, KEEP_TAG, "true")
        elif KEEP_TAG in run.data.tags:
            store.client.delete_tag(run.info.run_id, KEEP_TAG)
        print(f"{'kept' if kept else 'no longer kept'}: {_label(run)}")
    return _plain(runs)


def annotate(
    store: Store, targets: Sequence[str], text: str | None, tags: Sequence[str], study: str | None = None
) -> list[dict[str, object]]:
    """Add a paragraph at the top of the description of runs, and set tags of the form ``KEY=VALUE`` (``KEY=`` removes one).

    Raises UserError for a malformed tag, and for one that the record of a run uses.
    """
    if not (text or tags):
        raise UserError("store note: nothing to add; give text=… or tags=KEY=VALUE,…")
    pairs = [tag.partition("=") for tag in tags]
    for key, equals, _ in pairs:
        if not (key and equals):
            raise UserError(f"tags={key}: expected KEY=VALUE, or KEY= to remove a tag")
        if key.startswith(_RESERVED):
            raise UserError(f"tags={key}=…: tags that begin with {', '.join(_RESERVED)} are those of the record")
    runs = _named(store, targets, study)
    for run in runs:
        run_id, present = run.info.run_id, run.data.tags
        if text:
            store.client.set_tag(run_id, NOTE_TAG, f"{text}\n\n{present.get(NOTE_TAG, '')}".strip())
        for key, _, value in pairs:
            if value:
                store.client.set_tag(run_id, key, value)
            elif key in present:
                store.client.delete_tag(run_id, key)
        print(f"noted: {_label(run)}")
    return _plain(runs)


def _named(store: Store, targets: Sequence[str], study: str | None, view: int = ACTIVE) -> list["Run"]:
    return [find_run(store, target, view) for target in targets] + (study_runs(store, study, view) if study else [])


def _with_children(store: Store, targets: Sequence[str], study: str | None, view: int) -> dict[str, "Run"]:
    """By id, the runs that `targets` name or of a study, and all runs below them, parents first."""
    found = {run.info.run_id: run for run in _named(store, targets, study, view)}
    waiting = list(found)
    while waiting:
        condition = f"tags.`{PARENT_RUN_TAG}` = '{waiting.pop()}'"
        below = {run.info.run_id: run for run in store.search_runs(condition, view=view)}
        waiting += [run_id for run_id in below if run_id not in found]
        found |= below
    return found


def _ancestors(run_id: str, runs: Mapping[str, "Run"]) -> set[str]:
    """The run itself and those of `runs` that it is below of."""
    found: set[str] = set()
    while run_id in runs and run_id not in found:
        found.add(run_id)
        run_id = runs[run_id].data.tags.get(PARENT_RUN_TAG, "")
    return found


def _label(run: "Run") -> str:
    return f"{run.info.run_id} ({run.info.run_name})"


def _plain(runs: Sequence["Run"]) -> list[dict[str, object]]:
    return [{"run_id": run.info.run_id, "name": run.info.run_name, "status": run.info.status} for run in runs]
