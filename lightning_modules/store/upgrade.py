"""Upgrade a store that an older MLflow has written, after a backup."""

import sqlite3
from contextlib import closing
from pathlib import Path

from lightning_modules.config.errors import UserError
from lightning_modules.tracking.schema_version import has_newest_schema
from lightning_modules.tracking.secrets import mask_secrets
from lightning_modules.tracking.store import require_free_space, sqlite_path, sqlite_uri


def upgrade(uri: str) -> None:
    """Bring a SQLite store to the schema of the installed MLflow; an upgrade that fails changes nothing.

    Raises UserError if there is no such file, if a newer MLflow has written it, or if the upgrade fails.
    """
    from mlflow.db import commands

    if not uri.startswith("sqlite:"):
        shown = mask_secrets(uri)
        raise UserError(
            f"tracking.uri={shown} is no SQLite file: back it up, then run `mlflow db upgrade` where it is served"
        )
    path = sqlite_path(uri)
    if not path.is_file():
        raise UserError(f"tracking.uri={uri}: there is no such file")
    with closing(sqlite3.connect(path)) as database:
        if has_newest_schema(path, database):
            print(f"{path} has the schema of the installed MLflow already")
            return
    require_free_space(path, 3 * path.stat().st_size)
    backup = next(file for i in range(10_000) if not (file := path.with_name(f"{path.name}.backup{i or ''}")).exists())
    _copy(path, backup)
    print(f"backup: {backup}")
    try:
        commands.main(["upgrade", sqlite_uri(path)], standalone_mode=False)
    except Exception as error:  # a migration may fail in any way
        _copy(backup, path)
        raise UserError(f"{path} cannot be upgraded and is as it was: {error}") from error
    print(f"upgraded: {path}")


def _copy(source: Path, target: Path) -> None:
    """Copy a database with what its write-ahead log holds."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)
