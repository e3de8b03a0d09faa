"""Sets that are folders of files, a folder for each class."""

from collections.abc import Collection
from pathlib import Path

from lightning_modules.errors import UserError, nearest


def class_names(folder: Path, kind: str) -> list[str]:
    """The names of the classes in order; `kind` says what the files are, as in "images".

    Raises:
        UserError: no folder is there.
    """
    found = folder.iterdir() if folder.is_dir() else []
    names = sorted(sub.name for sub in found if sub.is_dir() and not sub.name.startswith("."))
    if not names:
        raise UserError(
            f"no classes were found in {folder}: set data.root to a folder that holds one folder of {kind} "
            "per class, or train/, val/ and test/ with one folder per class in each"
        )
    return names


def listed(folder: Path, names: list[str], kind: str, endings: Collection[str]) -> list[tuple[Path, int]]:
    """The files of each of the classes `names`, with the class's number, in order.

    Raises:
        UserError: a class is not among `names`, or one has no file (but in validation and test).
    """
    unknown = [name for name in class_names(folder, kind) if name not in names]
    if unknown:
        raise UserError(f"{folder / unknown[0]} is no class of the training part: {nearest(unknown[0], names)}")
    found = []
    for label, name in enumerate(names):
        files = sorted(file for file in (folder / name).glob("*") if file.suffix.lower() in endings)
        if not files and folder.name not in ("val", "test"):
            raise UserError(f"{folder / name} holds no {kind}; known endings: {', '.join(sorted(endings))}")
        found += [(file, label) for file in files]
    return found
