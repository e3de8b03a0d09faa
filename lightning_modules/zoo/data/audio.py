"""Your own recordings, one folder of audio files per class, and the base datamodule of audio data."""

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from lightning_modules.config.bounds import Count, bounded
from lightning_modules.data.class_folders import read_class_folders
from lightning_modules.data.files import data_root
from lightning_modules.data.in_memory import InMemoryData, RawDataset
from lightning_modules.data.preprocess import CHUNK_SAMPLES, SampleSource
from lightning_modules.zoo.data.audio_file import SUFFIXES, fit_length, read_recordings
from lightning_modules.zoo.data.log_mel import LogMel, MelSpectrum, WindowLength, check_hop


class AudioData(InMemoryData):
    """Recordings of equal length; subclasses implement `load`, with the help of `samples`.

    Args:
        seconds: recordings are padded or cut to this length around their middle; `cut` counts the longer ones.
        sample_rate: in Hz.
        features: "waveform": x is int16 [T], and preprocessing computes log-mel features after augmentation;
            "log_mel": x is float32 [1, n_mels, frames], computed once: several times faster, but SpecAugment is
            the only augmentation.
        n_fft: window length in samples; hop: hop length; n_mels: number of mel bands.
    """

    domain = "audio"

    @bounded
    def __init__(
        self,
        *,
        seconds: Annotated[float, Gt(0), Le(600)] = 1.0,
        sample_rate: Annotated[int, Ge(1000)] = 8000,
        features: Literal["waveform", "log_mel"] = "waveform",
        n_fft: WindowLength = 256,
        hop: Count = 80,
        n_mels: Count = 40,
        **settings: Any,
    ) -> None:
        check_hop(hop, n_fft)
        self.seconds, self.sample_rate, self.features = seconds, sample_rate, features
        self.n_fft, self.hop, self.n_mels = n_fft, hop, n_mels
        self.cut = 0
        super().__init__(**settings)

    @property
    def length(self) -> int:
        """Samples per recording."""
        return max(1, round(self.seconds * self.sample_rate))

    def samples(self, waves: list[np.ndarray]) -> Tensor:
        """Return recordings, each int16 [T], as x in the form given by `features`; count those that are cut."""
        self.cut += sum(len(wave) > self.length for wave in waves)
        x = torch.from_numpy(np.stack([fit_length(wave, self.length) for wave in waves]))
        if self.features == "waveform":
            return x
        spectrum = MelSpectrum(self.sample_rate, self.n_fft, self.hop, self.n_mels)
        return torch.cat([spectrum(part) for part in x.split(CHUNK_SAMPLES)])

    def build_preprocess(self, x: SampleSource, train: Tensor) -> nn.Module:
        """Log-mel features, normalized on the training part."""
        return LogMel(self.sample_rate, self.n_fft, self.hop, self.n_mels).fit(x, train)

    def model_settings(self) -> dict[str, object]:
        """Return the arguments a recurrent network takes from the data."""
        return {"n_mels": self.n_mels}


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

        Raises UserError if there are no files, a class is unknown or empty, or a file cannot be read.
        """
        names, parts = read_class_folders(self.root, "audio files", SUFFIXES)
        self.cut = 0
        read = self._read(parts)
        pool = [read[part] for part in ("train", "val") if part in read]
        x, y = (torch.cat(both) for both in zip(*pool, strict=True))
        val = torch.arange(len(read["train"][1]), len(y)) if "val" in read else None
        return RawDataset(x, y, test=read.get("test"), val=val, class_names=names)

    def _read(self, parts: dict[str, list[tuple[Path, int]]]) -> dict[str, tuple[Tensor, Tensor]]:
        """Read all parts at once, so that one message lists all damaged files."""
        waves = iter(read_recordings([file for files in parts.values() for file, _ in files], self.sample_rate))
        return {
            part: (self.samples([next(waves) for _ in files]), torch.tensor([label for _, label in files]))
            for part, files in parts.items()
        }
