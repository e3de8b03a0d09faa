"""Mending a SQLite store whose folder has moved: MLflow keeps absolute addresses of artifacts (mlflow issue 3144)."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlparse

from lightning_modules.config.errors import UserError
from lightning_modules.tracking.store import LOCK_SECONDS, Store

URI_COLUMNS = (  # where the schema of MLflow keeps addresses of artifacts
    ("experiments", "artifact_location", ""),
    ("runs", "artifact_uri", ""),
    ("logged_models", "artifact_location", ""),
    ("model_versions", "source", ""),
    ("model_versions", "storage_location", ""),
    ("workspaces", "default_artifact_root", ""),
    ("trace_tags", "value", "AND key = 'mlflow.artifactLocation'"),
)


@dataclass(frozen=True)
class ArtifactUri:
    """One address in the database that names a place on a disk."""

    table: str
    column: str
    row: int
    text: str

    @property
    def path(self) -> Path:
        return Path(unquote(urlparse(self.text).path)) if self.text.startswith("file:") else Path(self.text)

    def moved(self, old: Path, new: Path) -> str:
        """The same address with `new` in place of `old`, written as it was."""
        path = str(new / self.path.relative_to(old))
        return f"file://{quote(path)}" if self.text.startswith("file:") else path


def relocate(store: Store, old: Path | None = None, dry_run: bool = False) -> int:
    """Rewrite the addresses of artifacts that lay in an old place to where the store lies now; print what is done.

    Args:
        store: a local store.
        old: the old folder of the project or of the store; None finds it by the addresses that lead nowhere.
        dry_run: only say what would be done.

    Returns:
        The number of addresses rewritten: 0 where all are right already.

    Raises:
        UserError: it is a server, or the artifacts are not found under the new place.
    """
    if not store.is_local:
        raise UserError(
            f"relocate mends a SQLite file; {store.uri.split('@')[-1]} is a server's, which moves by itself"
        )
    database = store.path
    folder = database.parent
    with closing(sqlite3.connect(database, timeout=LOCK_SECONDS, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        addresses = [address for address in _artifact_uris(connection) if not _is_within(address.path, folder)]
        places = (
            {old.absolute(): _new_root(old.absolute(), folder, addresses)} if old else _infer_moves(folder, addresses)
        )
        changes = [(address, place) for address in addresses if (place := _move_for(address, places))]
        for address, place in [] if dry_run else changes:
            changed = address.moved(place, places[place])
            connection.execute(
                f"UPDATE {address.table} SET {address.column} = ? WHERE rowid = ?", (changed, address.row)
            )
        connection.execute("COMMIT")
    _report(changes, places, addresses, folder, dry_run)
    return len(changes)


def _artifact_uris(connection: sqlite3.Connection) -> Iterator[ArtifactUri]:
    """All addresses on a disk; those of buckets and servers are not ours to change."""
    for table, column, condition in URI_COLUMNS:
        if column not in {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}:
            continue  # MLflow's schema changes with its version
        query = f"SELECT rowid, {column} FROM {table} WHERE ({column} LIKE 'file:%' OR {column} LIKE '/%') {condition}"
        for row, text in connection.execute(query):
            yield ArtifactUri(table, column, row, text)


def _infer_moves(folder: Path, addresses: Iterable[ArtifactUri]) -> dict[Path, Path]:
    """Old places -> the store's folder, of the addresses that lead nowhere but have their end under the store's folder."""
    lost = [address for address in addresses if not address.path.exists()]
    found = {place: folder for address in lost if (place := _old_root(address.path, folder))}
    gone = [a for a in lost if not _artifact_root(a.path).exists()]  # in a store that stands, a run just has no files
    left = [a for a in gone if a.table != "experiments" and not any(a.path.is_relative_to(place) for place in found)]
    if left and not found:
        raise UserError(
            f"{len(gone)} addresses lead nowhere, as {left[0].path} does, and under {folder} there is nothing of that "
            "name either: put the old folder `artifacts` beside the database, or name the old place with --from"
        )
    for empty in (
        a.path for a in gone if a.path.parent.name == "artifacts"
    ):  # of an experiment that stored nothing yet
        if not any(address.path.is_relative_to(empty) for address in left):
            found[empty.parents[1]] = folder
    return found


def _artifact_root(path: Path) -> Path:
    """The folder ``artifacts`` of the store, or `path` itself where there is none in it."""
    parts = path.parts
    return Path(*parts[: parts.index("artifacts") + 1]) if "artifacts" in parts else path


def _old_root(path: Path, folder: Path) -> Path | None:
    """What stood in place of `folder`: the shortest beginning of `path` whose rest (two parts or more) exists there."""
    for depth in range(1, len(path.parts) - 1):
        if folder.joinpath(*path.parts[depth:]).exists():
            return Path(*path.parts[:depth])
    return None


def _new_root(old: Path, folder: Path, addresses: list[ArtifactUri]) -> Path:
    """The store's folder, or the one above it that stands for `old`: the first that holds artifacts of old addresses."""
    rests = [address.path.relative_to(old) for address in addresses if address.path.is_relative_to(old)]
    if not rests and addresses:
        raise UserError(f"from={old}: no address begins so; there are such as {addresses[-1].path}")
    for place in (folder, *folder.parents):
        if not rests or any(place.joinpath(rest).exists() for rest in rests):
            return place
    raise UserError(f"from={old}: none of the artifacts that lay there is found at {folder}: move them first")


def _move_for(address: ArtifactUri, places: Iterable[Path]) -> Path | None:
    return next((place for place in places if address.path.is_relative_to(place)), None)


def _is_within(path: Path, folder: Path) -> bool:
    return path.is_relative_to(folder) or path.resolve().is_relative_to(folder.resolve())


def _report(
    changes: list[tuple[ArtifactUri, Path]],
    places: dict[Path, Path],
    addresses: list[ArtifactUri],
    folder: Path,
    dry_run: bool,
) -> None:
    for place, new in places.items():
        rows = [address for address, old in changes if old == place]
        counts = {table: sum(address.table == table for address in rows) for table, _, _ in URI_COLUMNS}
        told = ", ".join(f"{count} in {table}" for table, count in counts.items() if count) or "none"
        print(f"{place} -> {new}: {told}{' (nothing is written: dry_run=true)' if dry_run else ''}")
    left = [address for address in addresses if not _move_for(address, places)]
    gone = [address for address in left if not address.path.exists() and not _artifact_root(address.path).exists()]
    if gone:
        print(f"{len(gone)} addresses lead nowhere and were left, as {gone[0].path}")
    for place in sorted({p for a in left if a.path.exists() and (p := _old_root(a.path, folder))}):
        print(f"{place} still exists and holds what {folder} holds: from={place} leads this store to its own copy")
    if not changes:
        print("all addresses are right: nothing to do" if not left else "nothing was rewritten")
