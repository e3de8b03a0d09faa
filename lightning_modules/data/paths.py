"""Paths of data and caches, and atomic writing of cache files."""

import os
from contextlib import suppress
from pathlib import Path

from lightning_modules.config.project import PROJECT_ROOT


def data_root(root: str | Path | None = None) -> Path:
    """Return `root`, else the environment's TOUCHSTONE_DATA, else ``data/`` beside the package."""
    return Path(root or os.environ.get("TOUCHSTONE_DATA") or PROJECT_ROOT / "data").expanduser()


def cache_folder(folder: str | Path | None = None) -> Path:
    """Return `folder`, else the user's cache folder (XDG_CACHE_HOME, ``~/.cache``); it may not exist yet."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(folder).expanduser() if folder else home / "touchstone"


def write_atomic(path: Path, content: bytes) -> None:
    """Write a cache file atomically; an unwritable cache is not an error."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)
