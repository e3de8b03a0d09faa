"""Data sets on disk with one folder per class, optionally below one folder per part (train, val, test)."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from pytorch_lightning.utilities import rank_zero_warn

from lightning_modules.config.errors import UserError, suggest

PART_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
MAX_LISTED = 5  # names that a message lists
T = TypeVar("T")
Parts = dict[str, list[tuple[Path, int]]]  # "train", and "val" and "test" if they have folders


def read_class_folders(
    root: Path, kind: str, suffixes: Collection[str], key: str = "data.root"
) -> tuple[list[str], Parts]:
    """List ``root/CLASS/*``, or ``root/PART/CLASS/*`` (part names: `PART_FOLDERS`, in any case).

    Returns the class names, and the files of each part that has a folder, with their class index. Warns about skipped files.

    Args:
        kind: what the files are, used in messages.
        suffixes: accepted suffixes, in lower case.
        key: config key that sets `root`.

    Raises UserError if there are no classes, a part is unknown or given twice, or a class has no training files.
    """
    folders = _part_folders(root)
    train = _class_folders(folders["train"])
    if not train:
        raise UserError(
            f"no classes were found in {folders['train']}: set {key} to a folder that holds one folder of {kind} "
            "per class, or train/, val/ and test/ with one folder per class in each"
        )
    names = list(train)
    skipped: Counter[str] = Counter()
    parts = {}
    for part, folder in folders.items():
        present = _class_folders(folder)
        if unknown := [name for name in present if name not in train]:
            raise UserError(f"{folder / unknown[0]} is not a class of the training part: {suggest(unknown[0], names)}")
        found = {name: _files(present[name], suffixes, skipped) if name in present else [] for name in names}
        empty = [name for name in names if not found[name]]
        if empty and (part == "train" or len(empty) == len(names)):
            where = train[empty[0]] if part == "train" else folder
            raise UserError(f"{where} contains no {kind}; supported suffixes: {', '.join(sorted(suffixes))}")
        outside = [file for file in folder.iterdir() if file.suffix.lower() in suffixes and file.is_file()]
        skipped["outside the class folders"] += len(outside)
        parts[part] = [(file, label) for label, name in enumerate(names) for file in found[name]]
    warn_of_skipped(root, skipped, sum(map(len, parts.values())))
    return names, parts


def _part_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each part; if the subfolders are classes, `root` itself is "train"."""
    subfolders = _class_folders(root)
    given = {
        part: [path for path in subfolders.values() if path.name.lower() in PART_FOLDERS[part]] for part in PART_FOLDERS
    }
    # a class may be called "train" too: its folder contains files, not folders
    if not any(_class_folders(path) for paths in given.values() for path in paths):
        return {"train": root}
    for part, paths in given.items():
        if len(paths) > 1:
            raise UserError(f"{root}: {' and '.join(path.name for path in paths)} are both folders of the {part} part")
    parts = {part: path for part, paths in given.items() for path in paths}
    if "train" not in parts:
        raise UserError(f"{root} has {', '.join(path.name for path in parts.values())} but no train folder")
    if unknown := [name for name, path in subfolders.items() if path not in parts.values()]:
        known = "; ".join(", ".join(names) for names in PART_FOLDERS.values())
        shown = ", ".join(unknown[:MAX_LISTED]) + (" …" if len(unknown) > MAX_LISTED else "")
        raise UserError(f"{root}: {shown} is not the name of a part, as {parts['train'].name} is: use {known}")
    return parts


def _class_folders(folder: Path) -> dict[str, Path]:
    """Return the subfolders by name, sorted, without hidden ones and those of macOS's archiver."""
    if not folder.is_dir():
        return {}
    found = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__MACOSX")))
    return {printable_name(path.name): path for path in found}


def _files(folder: Path, suffixes: Collection[str], skipped: Counter[str]) -> list[Path]:
    """Return the files of a class, sorted; count the skipped ones by reason."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            skipped["in subfolders of a class"] += sum(file.is_file() for file in path.rglob("*"))
        elif reason := reason_to_skip(path, suffixes):
            skipped[reason] += 1
        else:
            found.append(path)
    return found


def reason_to_skip(path: Path, suffixes: Collection[str]) -> str | None:
    """Return why a file is skipped, or None if it is read."""
    if path.name.startswith("."):
        return "hidden"
    if path.suffix.lower() not in suffixes:
        return f"with suffix {path.suffix.lower()}" if path.suffix else "without a suffix"
    return None if os.access(path, os.R_OK) else "unreadable (a broken link, or no permission)"


def warn_of_skipped(root: Path, skipped: Counter[str], read: int) -> None:
    """Warn about skipped files, counted by reason."""
    if total := sum(skipped.values()):
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.most_common() if count)
        rank_zero_warn(f"{root}: skipped {total} of {total + read} files: {reasons}")


def printable_name(name: str) -> str:
    """Return a file name as valid text: bytes that are not UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def read_in_threads(read: Callable[[Path], T], files: Sequence[Path]) -> Iterator[T]:
    """Yield ``read(file)`` for each file, in order, reading several at once.

    Raises UserError after the last file, listing the files for which `read` raised a UserError.
    """

    def attempt(file: Path) -> T | UserError:
        try:
            return read(file)
        except UserError as error:
            return error

    failed = []
    with ThreadPoolExecutor() as pool:
        for result in pool.map(attempt, files):
            if isinstance(result, UserError):
                failed.append(str(result))
            else:
                yield result
    if failed:
        more = [f"{len(failed)} of {len(files)} files cannot be read:"] if len(failed) > 1 else []
        raise UserError("\n".join([*more, *failed[:MAX_LISTED], *(["…"] if len(failed) > MAX_LISTED else [])]))
