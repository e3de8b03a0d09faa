"""The only place that deletes folders of a store, and the rules for it."""

import shutil
from collections.abc import Iterable
from pathlib import Path


class SafeDeleter:
    """Folders may be deleted that lie really below `root` and hold nothing that is kept.

    Args:
        root: nothing outside of it is touched; a link does not lead out of it.
        kept: folders of which no part may go.
        occupied: folders that must not go as a whole.
        dry_run: only count.

    Attributes:
        freed: bytes; failed: one text for each folder that the system did not let go.
    """

    def __init__(self, root: Path, kept: Iterable[Path], occupied: Iterable[Path], dry_run: bool) -> None:
        self.root, self._dry_run = root.resolve(), dry_run
        self.freed, self.failed = 0, list[str]()
        self._kept = {path.resolve() for path in kept}
        whole = {path.resolve() for path in occupied}
        self._above = whole | {folder for path in self._kept | whole for folder in path.parents}

    def refusal(self, path: Path) -> str | None:
        """Why `path` has to stay, or None."""
        real = path.resolve()
        if real == self.root or not real.is_relative_to(self.root):
            return f"it lies outside of {self.root}"
        if path.is_symlink():
            return "it is a link"
        if real in self._above or any(place in self._kept for place in (real, *real.parents)):
            return "it holds what is not deleted"
        return None

    def clear(self, path: Path, why: str) -> bool:
        """Delete a folder if it may go and print it; False where the system refuses."""
        if not path.is_dir():
            return True
        if reason := self.refusal(path):
            print(f"left {path}: {reason}")
            return True
        size = sum(file.lstat().st_size for file in path.rglob("*") if file.is_symlink() or file.is_file())
        try:
            if not self._dry_run:
                shutil.rmtree(path)
        except OSError as error:
            self.failed.append(f"{error.filename or path}: {error.strerror}")
            return False
        self.freed += size
        print(f"{'would delete' if self._dry_run else 'deleted'} {path} ({size:,} bytes): {why}")
        return True
