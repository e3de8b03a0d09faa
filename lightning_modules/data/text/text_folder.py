"""Your own texts: one folder per class."""

from pathlib import Path
from typing import Any

import torch

from lightning_modules.data.class_folders import read_class_folders
from lightning_modules.data.text.text_data import TextData, Texts, missing_files_error
from lightning_modules.data.text_encoding import check_encoding, read_texts


class TextFolder(TextData):
    """``<root>/<folder>/{train,val,test}/CLASS/*.txt`` or ``<root>/<folder>/CLASS/*.txt``, one text per file.

    `class_folders.py` lists alternative folder names of the parts.

    Args:
        folder: relative to the data root; "." is the root itself.
        encoding: of the files; null detects it for each file.
    """

    def __init__(self, *, folder: str = "texts", encoding: str | None = None, **settings: Any) -> None:
        check_encoding(encoding)
        self.folder, self.encoding = folder, encoding
        super().__init__(**settings)
        self.name = Path(folder).name or "text_folder"

    def places(self) -> list[Path]:
        """Return the candidate folders that contain the class folders."""
        return [self.root / self.folder]

    def hint(self) -> str:
        """Return how to get the texts, for the error message."""
        return "Create one folder per class there, with one .txt file per text; data.folder sets another folder"

    def read(self) -> Texts:
        """Read all files, sorted by path.

        Raises:
            UserError: there are no files, a class is unknown or empty, or a file cannot be decoded.
        """
        places = [place for place in self.places() if any(place.glob("*/*.txt")) or any(place.glob("*/*/*.txt"))]
        if not places:
            raise missing_files_error(f"data={self.name}", self.places(), self.hint())
        folders = read_class_folders(places[0], "texts", (".txt",), "data.folder")
        parts = folders.parts
        everything = [file for files in parts.values() for file, _ in files]
        texts = dict(zip(everything, read_texts(everything, self.encoding), strict=True))

        def texts_of(files: list[tuple[Path, int]]) -> Texts:
            y = torch.tensor([label for _, label in files])
            return Texts([texts[file] for file, _ in files], y, class_names=folders.class_names)

        given = texts_of(parts["train"] + parts.get("val", []))
        given.val = torch.arange(len(parts["train"]), len(given.y)) if "val" in parts else None
        given.test = texts_of(parts["test"]) if "test" in parts else None
        return given
