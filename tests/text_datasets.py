"""Small sets of texts in the formats of the true ones, and a datamodule of handwritten texts."""

import csv
from pathlib import Path
from typing import Any

import torch

from lightning_modules.zoo.data.text_data import TextData, Texts

QUESTIONS = (
    "How did it happen ?",
    "What is a caf\xe9 ?",
    "What is NASA ?",
    "Who was he ?",
    "Where is Paris ?",
    "When ?",
)


def write_trec(root: Path, copies: int = 5, tests: int = 1) -> None:
    """Each of six questions `copies` times with a word of its own, and `tests` times in the test part."""
    (root / "sentences").mkdir(parents=True, exist_ok=True)
    for file, count in (("TREC.train.all", copies), ("TREC.test.all", tests)):
        lines = [f"{label} {text} extra{i}" for i in range(count) for label, text in enumerate(QUESTIONS)]
        (root / "sentences" / file).write_bytes(("\n".join(lines) + "\n").encode("latin-1"))


def write_reviews(root: Path, count: int = 40) -> None:
    """Positive and negative sentences by turns; the first holds NEL, which is no end of a line."""
    (root / "sentences").mkdir(parents=True, exist_ok=True)
    lines = [f"{i % 2} it's a {('bad', 'good')[i % 2]} film , \x85 no {i} ." for i in range(count)]
    (root / "sentences" / "rt-polarity.all").write_bytes(("\n".join(lines) + "\n").encode("latin-1"))


def write_table(path: Path, rows: list[tuple[str, str]], header: tuple[str, str] = ("text", "label")) -> None:
    with path.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerows([header, *rows])


class Handwritten(TextData):
    """Texts that a test gives, with their labels; values where the labels are floats."""

    name = "handwritten"

    def __init__(self, texts: list[str], labels: list[Any], **settings: Any) -> None:
        self.given = Texts(texts, torch.tensor(labels))
        super().__init__(**{"test_fraction": 0.0, "val_fraction": 0.0, **settings})

    def read(self) -> Texts:
        return self.given
