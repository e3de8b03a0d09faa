"""Your own recordings: one folder of audio files per class."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.data.audio_data import AudioData
from lightning_modules.data.audio_file import SUFFIXES, read_recordings
from lightning_modules.data.class_folders import read_class_folders
from lightning_modules.data.in_memory import RawDataset
from lightning_modules.data.paths import data_root


class AudioFolder(AudioData):
    """int16 [seconds * sample_rate] from ``root/{train,val,test}/CLASS/*.wav`` or ``root/CLASS/*.wav``.

    Without a ``val`` or ``test`` folder, that part is split off by its fraction; `class_folders.py` lists
    alternative folder names. FLAC, Ogg, MP3 and AIFF files are also read. Files are resampled to `sample_rate`,
    and channels are averaged.

    Args:
        root: default ``audio`` in the data folder.
    """

    name = "audio_folder"

    def __init__(self, *, root: str | Path | None = None, **settings: Any) -> None:
        self.root = Path(root).expanduser() if root else data_root() / "audio"
        super().__init__(**settings)

    def load(self) -> RawDataset:
        """List and read the files.

        Raises:
            UserError: there are no files, a class is unknown or empty, or a file cannot be read.
        """
        folders = read_class_folders(self.root, "audio files", SUFFIXES)
        self.cut = 0
        read = self._read(folders.parts)
        x, y = (
            torch.cat(both) for both in zip(*(read[part] for part in ("train", "val") if part in read), strict=True)
        )
        val = torch.arange(len(read["train"][1]), len(y)) if "val" in read else None
        return RawDataset(x, y, test=read.get("test"), val=val, class_names=folders.class_names)

    def _read(self, parts: dict[str, list[tuple[Path, int]]]) -> dict[str, tuple[Tensor, Tensor]]:
        """Read all parts at once, so that one message lists all damaged files."""
        waves = iter(read_recordings([file for files in parts.values() for file, _ in files], self.sample_rate))
        return {
            part: (self.samples([next(waves) for _ in files]), torch.tensor([label for _, label in files]))
            for part, files in parts.items()
        }
