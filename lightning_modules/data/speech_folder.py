"""Recordings of your own: one folder of .wav files per class."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.data.memory import Arrays
from lightning_modules.data.place import data_root
from lightning_modules.data.speech import Speech
from lightning_modules.data.speech_wav import read_wav
from lightning_modules.errors import UserError, nearest

PARTS = ("train", "val", "test")


class AudioFolder(Speech):
    """int16 [seconds * sample_rate] from ``root/{train,val,test}/CLASS/*.wav`` or ``root/CLASS/*.wav``.

    Where there is no ``val`` or ``test`` folder, that part is split off by its fraction. Other sample rates are
    resampled to `sample_rate`, several channels are averaged.

    Args:
        root: the folder; default ``audio`` in the data folder.
    """

    name = "audio_folder"

    def __init__(self, *, root: str | Path | None = None, **settings: Any) -> None:
        self.root = Path(root).expanduser() if root else data_root() / "audio"
        super().__init__(**settings)

    def load(self) -> Arrays:
        """List and read the files.

        Raises:
            UserError: there are none, a class is unknown or empty, or a file cannot be read.
        """
        parts = {part: self.root / part for part in PARTS if (self.root / part).is_dir()}
        if parts and "train" not in parts:
            raise UserError(f"data.root={self.root} has {', '.join(parts)} but no train folder")
        names = _class_names(parts.get("train", self.root))
        self.cut = 0
        read = {part: self._read(folder, names) for part, folder in (parts or {"train": self.root}).items()}
        x, y = (
            torch.cat(both) for both in zip(*(read[part] for part in ("train", "val") if part in read), strict=True)
        )
        val = torch.arange(len(read["train"][1]), len(y)) if "val" in read else None
        return Arrays(x, y, test=read.get("test"), val=val, class_names=names)

    def _read(self, folder: Path, names: list[str]) -> tuple[Tensor, Tensor]:
        unknown = [name for name in _class_names(folder) if name not in names]
        if unknown:
            raise UserError(f"{folder / unknown[0]} is no class of the training part: {nearest(unknown[0], names)}")
        files = [(file, label) for label, name in enumerate(names) for file in _wavs(folder / name)]
        missing = set(range(len(names))) - {label for _, label in files}
        if missing and folder.name not in ("val", "test"):
            raise UserError(f"{folder / names[min(missing)]} holds no .wav file")
        if not files:
            raise UserError(f"{folder} holds no .wav file")
        return self.samples([read_wav(file, self.sample_rate) for file, _ in files]), torch.tensor(
            [y for _, y in files]
        )


def _wavs(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*") if file.suffix.lower() == ".wav")


def _class_names(folder: Path) -> list[str]:
    found = folder.iterdir() if folder.is_dir() else []
    names = sorted(sub.name for sub in found if sub.is_dir() and not sub.name.startswith("."))
    if not names:
        raise UserError(
            f"no classes were found in {folder}: set data.root to a folder that holds one folder of .wav files "
            "per class, or train/, val/ and test/ with one folder per class in each"
        )
    return names
