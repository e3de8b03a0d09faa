"""Recordings of your own: one folder of .wav files per class."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.data.class_folders import class_names, listed
from lightning_modules.data.memory import Arrays
from lightning_modules.data.place import data_root
from lightning_modules.data.speech import Speech
from lightning_modules.data.speech_wav import read_wav
from lightning_modules.errors import UserError

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
        names = class_names(parts.get("train", self.root), ".wav files")
        self.cut = 0
        read = {part: self._read(folder, names) for part, folder in (parts or {"train": self.root}).items()}
        x, y = (
            torch.cat(both) for both in zip(*(read[part] for part in ("train", "val") if part in read), strict=True)
        )
        val = torch.arange(len(read["train"][1]), len(y)) if "val" in read else None
        return Arrays(x, y, test=read.get("test"), val=val, class_names=names)

    def _read(self, folder: Path, names: list[str]) -> tuple[Tensor, Tensor]:
        files = listed(folder, names, ".wav files", [".wav"])
        if not files:
            raise UserError(f"{folder} holds no .wav file")
        return self.samples([read_wav(file, self.sample_rate) for file, _ in files]), torch.tensor(
            [y for _, y in files]
        )
