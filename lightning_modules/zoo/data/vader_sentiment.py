"""Sentiment ratings of the VADER corpora: mean ratings by twenty people (Hutto and Gilbert, ICWSM 2014)."""

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.data.size_checks import require_plausible_gzip
from lightning_modules.data.text.text_data import TextData, Texts, missing_files_error

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

    def __init__(self, *, part: str = "tweets", **settings: Any) -> None:
        self.part = part
        super().__init__(**settings)
        self.name = f"valence-{part}"

    def problems(self) -> list[str]:
        """Also check the part."""
        wrong = self.part not in PARTS
        return super().problems() + ([f"data.part={self.part}: {suggest(self.part, PARTS)}"] if wrong else [])

    def read(self) -> Texts:
        """Find and read the part.

        Raises:
            UserError: the part is missing or damaged.
        """
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
