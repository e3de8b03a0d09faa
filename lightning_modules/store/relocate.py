"""Repair a SQLite store after its folder was moved: MLflow stores absolute artifact URIs."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlparse

from lightning_modules.compat.mlflow_schema import URI_COLUMNS
from lightning_modules.config.errors import UserError
from lightning_modules.tracking.store import LOCK_SECONDS, Store


@dataclass(frozen=True)
class ArtifactUri:
    """An artifact URI in the database that is a local path."""

    table: str
    column: str
    row: int
    text: str

    @property
    def path(self) -> Path:
        return Path(unquote(urlparse(self.text).path)) if self.text.startswith("file:") else Path(self.text)

    def moved(self, old: Path, new: Path) -> str:
        """The same URI, in the same notation, with `new` instead of `old`."""
        path = str(new / self.path.relative_to(old))
        return f"file://{quote(path)}" if self.text.startswith("file:") else path


def relocate(store: Store, old: Path | None = None, dry_run: bool = False) -> int:
    """Rewrite the artifact URIs of a moved store to its current folder; print what is done.

    Args:
        store: a local store.
        old: the old folder of the project or of the store; default: inferred from the URIs without a target.
        dry_run: only print what would be done.

    Returns:
        The number of rewritten URIs; 0 if all are correct.

    Raises UserError if the store is a server, or the artifacts are not in its folder.
    """
    if not store.is_local:
        server = store.uri.split("@")[-1]
        raise UserError(f"relocate repairs a SQLite store; {server} is a server, which needs no relocation")
    folder = store.folder
    with closing(sqlite3.connect(store.path, timeout=LOCK_SECONDS, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        uris = [uri for uri in _artifact_uris(connection) if not _is_within(uri.path, folder)]
        moves = {old.absolute(): _new_root(old.absolute(), folder, uris)} if old else _infer_moves(folder, uris)
        changes = [(uri, old_root) for uri in uris if (old_root := _move_for(uri, moves))]
        for uri, old_root in [] if dry_run else changes:
            changed = uri.moved(old_root, moves[old_root])
            connection.execute(f"UPDATE {uri.table} SET {uri.column} = ? WHERE rowid = ?", (changed, uri.row))
        connection.execute("COMMIT")
    _report(changes, moves, uris, folder, dry_run)
    return len(changes)


def _artifact_uris(connection: sqlite3.Connection) -> Iterator[ArtifactUri]:
    """All artifact URIs on a local disk; those of buckets and servers stay unchanged."""
    for table, column, condition in URI_COLUMNS:
        if column not in {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}:
            continue  # MLflow's schema differs between versions
        query = f"SELECT rowid, {column} FROM {table} WHERE ({column} LIKE 'file:%' OR {column} LIKE '/%') {condition}"
        for row, text in connection.execute(query):
            yield ArtifactUri(table, column, row, text)


def _infer_moves(folder: Path, uris: Iterable[ArtifactUri]) -> dict[Path, Path]:
    """Old folder -> the store's folder, from URIs without a target whose last part exists in the store's folder."""
    lost = [uri for uri in uris if not uri.path.exists()]
    found = {old_root: folder for uri in lost if (old_root := _old_root(uri.path, folder))}
    gone = [uri for uri in lost if not _artifact_root(uri.path).exists()]  # else the run may simply have no files
    left = [uri for uri in gone if uri.table != "experiments" and not _move_for(uri, found)]
    if left and not found:
        raise UserError(
            f"{len(gone)} artifact URIs have no target, e.g. {left[0].path}, and {folder} contains nothing of that "
            "name either: put the old folder `artifacts` beside the database, or give the old folder with from=…"
        )
    for uri in gone:  # of an experiment that stored nothing yet
        if uri.path.parent.name == "artifacts" and not any(other.path.is_relative_to(uri.path) for other in left):
            found[uri.path.parents[1]] = folder
    return found


def _artifact_root(path: Path) -> Path:
    """The store's folder ``artifacts`` in `path`, or `path` itself if it has none."""
    parts = path.parts
    return Path(*parts[: parts.index("artifacts") + 1]) if "artifacts" in parts else path


def _old_root(path: Path, folder: Path) -> Path | None:
    """The former path of `folder`: the shortest prefix of `path` whose rest (at least two parts) exists in `folder`."""
    for depth in range(1, len(path.parts) - 1):
        if folder.joinpath(*path.parts[depth:]).exists():
            return Path(*path.parts[:depth])
    return None


def _new_root(old: Path, folder: Path, uris: list[ArtifactUri]) -> Path:
    """The folder that replaces `old`: the store's folder or the first parent that contains artifacts of the old URIs."""
    rests = [uri.path.relative_to(old) for uri in uris if uri.path.is_relative_to(old)]
    if not rests and uris:
        raise UserError(f"from={old}: no artifact URI begins with it; the store has for example {uris[-1].path}")
    for new in (folder, *folder.parents):
        if not rests or any(new.joinpath(rest).exists() for rest in rests):
            return new
    raise UserError(f"from={old}: none of the artifacts that lay there is found at {folder}: move them first")


def _move_for(uri: ArtifactUri, moves: Iterable[Path]) -> Path | None:
    return next((old_root for old_root in moves if uri.path.is_relative_to(old_root)), None)


def _is_within(path: Path, folder: Path) -> bool:
    return path.is_relative_to(folder) or path.resolve().is_relative_to(folder.resolve())


def _report(
    changes: list[tuple[ArtifactUri, Path]],
    moves: dict[Path, Path],
    uris: list[ArtifactUri],
    folder: Path,
    dry_run: bool,
) -> None:
    for old_root, new in moves.items():
        rows = [uri for uri, old in changes if old == old_root]
        counts = {table: sum(uri.table == table for uri in rows) for table, _, _ in URI_COLUMNS}
        told = ", ".join(f"{count} in {table}" for table, count in counts.items() if count) or "none"
        print(f"{old_root} -> {new}: {told}{' (nothing is written: dry_run=true)' if dry_run else ''}")
    left = [uri for uri in uris if not _move_for(uri, moves)]
    gone = [uri for uri in left if not uri.path.exists() and not _artifact_root(uri.path).exists()]
    if gone:
        print(f"{len(gone)} artifact URIs have no target and were left unchanged, e.g. {gone[0].path}")
    for old_root in sorted({p for a in left if a.path.exists() and (p := _old_root(a.path, folder))}):
        same = f"{old_root} still exists with the content of {folder}"
        print(f"{same}; from={old_root} makes this store use its own copy")
    if not changes:
        print("all artifact URIs are correct; nothing to do" if not left else "nothing was rewritten")
