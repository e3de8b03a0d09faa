"""Your own recordings with transcripts, listed in CSV files."""

import csv
from pathlib import Path
from typing import Any

from lightning_modules.config.errors import UserError
from lightning_modules.data.files import data_root
from lightning_modules.data.in_memory import RawDataset
from lightning_modules.zoo.data.audio_file import read_recordings
from lightning_modules.zoo.data.speech import SpeechData, Utterance

COLUMNS = ("file", "text")
Listed = list[tuple[Path, str, str]]  # recording, transcript, and where it stands


class TranscribedAudio(SpeechData):
    """Recordings of ``transcripts.csv``, or of ``train.csv``, ``val.csv`` and ``test.csv``, with the columns file and text.

    Files are WAV, FLAC, Ogg, MP3 or AIFF, relative to the folder, in UTF-8; they are resampled and their channels averaged.
    White space within a transcript is one space. Without a file of its own, val or test is split off by its fraction, at
    random: for speakers that are not in the training part, list them in ``test.csv``.

    Args:
        root: the folder, relative to the data root or absolute.
        others: as in `SpeechData`.
    """

    def __init__(self, *, root: str | Path, **settings: Any) -> None:
        self.root = data_root() / Path(root).expanduser()
        self.name = self.root.name
        super().__init__(**settings)

    def load(self) -> RawDataset:
        """Read the lists and all recordings.

        Raises UserError with file and line for a missing recording or one that is listed twice, an empty transcript, and a
        character that is not in `symbols`.
        """
        names = ("train", "val", "test")
        lists = {part: self.root / f"{part}.csv" for part in names if (self.root / f"{part}.csv").is_file()}
        if not lists and (self.root / "transcripts.csv").is_file():
            lists = {"train": self.root / "transcripts.csv"}
        if "train" not in lists:
            raise UserError(
                f"data.root={self.root}: expected transcripts.csv or train.csv there, with {','.join(COLUMNS)}"
            )
        listed = {part: read_list(path) for part, path in lists.items()}
        first: dict[Path, str] = {}
        for file, _, where in (line for lines in listed.values() for line in lines):
            if file in first:
                raise UserError(f"{where} is listed twice; first as {first[file]}")
            first[file] = where
        waves = dict(zip(first, read_recordings(list(first), self.sample_rate), strict=True))
        return self.assemble(
            {
                part: [Utterance(waves[file], text, where) for file, text, where in lines]
                for part, lines in listed.items()
            },
            self.root,
        )


def read_list(path: Path) -> Listed:
    """Return the lines of a CSV file with the columns file and text. Raises UserError with the line that is wrong."""
    found: Listed = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as opened:
            rows = csv.DictReader(opened, strict=True)
            if lacking := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
                raise UserError(f"{path} has no column {lacking[0]}: its first line names the columns file,text")
            for row in rows:
                at = f"{path}:{rows.line_num}"
                if None in row or row["file"] is None or row["text"] is None:
                    raise UserError(
                        f"{at}: expected {len(rows.fieldnames or ())} cells; put a text with commas in quotes"
                    )
                file, text = path.parent / row["file"].strip(), " ".join(row["text"].split())
                if not file.is_file():
                    raise UserError(f"{at}: there is no recording {file}")
                if not text:
                    raise UserError(f"{at}: the transcript of {file.name} is empty; write it, or remove the line")
                found.append((file, text, f"{file} ({path.name}:{rows.line_num})"))
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as CSV in UTF-8: {error}") from error
    if not found:
        raise UserError(f"{path} lists no recording")
    return found
