"""Which MLflow has written a SQLite store: the installed one, an older one, or a newer one."""

import contextlib
import re
import sqlite3
from importlib.metadata import version
from pathlib import Path
from urllib.parse import unquote, urlparse

from packaging.version import Version

from lightning_modules.compat.mlflow_schema import ARTIFACTS_QUERY, REVISION_QUERY, STORE_TABLES, schema_revisions
from lightning_modules.config.errors import UserError


def has_newest_schema(path: Path, database: sqlite3.Connection) -> bool:
    """Whether a database has the schema of the installed MLflow, rather than an older one.

    Raises UserError if it is not one of MLflow, or has the schema of a newer MLflow.
    """
    tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables >= STORE_TABLES:
        raise UserError(f"the tracking store {path} is not an MLflow database")
    known, (revision,) = schema_revisions(), database.execute(REVISION_QUERY).fetchone() or ("none",)
    if revision in known:
        return known[revision]
    written_by = _newest_version(database)
    needed = f"install mlflow>={written_by}" if written_by else f"install one that has its revision, {revision}"
    raise UserError(f"the tracking store {path} was written by a newer MLflow than {version('mlflow')}: {needed}")


def _newest_version(database: sqlite3.Connection) -> str | None:
    """The newest MLflow of the last runs, as they have recorded it, if it is newer than the installed one."""
    found = [version("mlflow")]
    for (uri,) in database.execute(ARTIFACTS_QUERY):
        with contextlib.suppress(OSError):
            packages = Path(unquote(urlparse(uri).path), "environment", "requirements.txt").read_text()
            found += re.findall(r"^mlflow==(.+)$", packages, re.MULTILINE)
    newest = max(found, key=Version)
    return None if newest == found[0] else newest
