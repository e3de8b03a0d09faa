"""Background noise at a random signal-to-noise ratio."""

from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_modules.augmentation.audio.wave_transform import (
    WaveTransform,
    db_to_amplitude,
    read_audio_folder,
    require_range,
    rms,
    sample_rate_of,
)
from lightning_modules.augmentation.per_sample import to_device_of, uniform
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.data.in_memory import InMemoryData
from lightning_modules.data.log_mel import as_float_audio
from lightning_modules.data.preprocess import SampleSource

NoiseSource = Literal["white", "pink", "training", "folder"]


class BackgroundNoise(WaveTransform):
    """Adds noise at a signal-to-noise ratio that is uniform in decibels.

    Powers are means over the whole sample, including silence. A silent sample stays silent.

    Args:
        min_snr_db, max_snr_db: range of the signal-to-noise ratio.
        source: "white", "pink" (equal power in every octave), "training" (another training recording) or "folder".
        folder: of .wav files, from which random segments are taken (repeated if too short).
    """

    def __init__(
        self,
        min_snr_db: float = 5.0,
        max_snr_db: float = 30.0,
        source: NoiseSource = "white",
        folder: str | Path | None = None,
        probability: float = 0.5,
    ) -> None:
        super().__init__(probability)
        require_range(self, "[min_snr_db, max_snr_db]", min_snr_db, max_snr_db)
        if source not in get_args(NoiseSource):
            raise UserError(
                f"augmentation: BackgroundNoise.source={source}: {suggest(str(source), get_args(NoiseSource))}"
            )
        if (source == "folder") != (folder is not None):
            raise UserError(
                f"augmentation: BackgroundNoise.source={source} and BackgroundNoise.folder={folder}: source=folder and a "
                "folder belong together"
            )
        self.min_snr_db, self.max_snr_db = min_snr_db, max_snr_db
        self.source, self.folder = source, folder
        self.recordings: list[Tensor] = []
        self.others: tuple[SampleSource, Tensor] | None = None

    def prepare(self, data: InMemoryData) -> None:
        """Read the folder, or find the training recordings."""
        if self.folder is not None:
            self.recordings = read_audio_folder(self, self.folder, sample_rate_of(self, data))
        elif self.source == "training":
            self.others = data.arrays.x, data.splits["train"]

    def transform_wave(self, wave: Tensor, generator: torch.Generator) -> Tensor:
        count, length = wave.shape
        noise = to_device_of(wave, self._noise(count, length, generator))
        snr = uniform(len(wave), self.min_snr_db, self.max_snr_db, generator)[:, None].to(wave.device)
        level = rms(noise)
        wanted = rms(wave) / db_to_amplitude(snr)
        return wave + noise * torch.where(level > 0, wanted / level, 0.0)

    def _noise(self, count: int, length: int, generator: torch.Generator) -> Tensor:
        """Draw noise float32 [count, length] of any power, on the CPU."""
        if self.source in ("white", "pink"):
            noise = torch.randn(count, length, generator=generator)
            return pink_noise(noise) if self.source == "pink" else noise
        if self.others is not None:
            x, train = self.others
            drawn = train[torch.randint(len(train), (count,), generator=generator)]
            return as_float_audio(x.index_select(0, drawn))
        if not self.recordings:
            raise UserError(f"augmentation: BackgroundNoise.source={self.source}: call prepare(datamodule) first")
        which = torch.randint(len(self.recordings), (count,), generator=generator).tolist()
        return torch.stack([random_segment(self.recordings[k], length, generator) for k in which])


def pink_noise(noise: Tensor) -> Tensor:
    """Filter white noise [n, T] to pink noise, 3 dB less per octave: divide amplitudes by the root of the frequency."""
    spectrum = torch.fft.rfft(noise)
    frequency = torch.arange(spectrum.shape[1]).clamp(min=1)
    spectrum = spectrum / frequency.sqrt()
    spectrum[:, 0] = 0  # no DC component
    return torch.fft.irfft(spectrum, noise.shape[1])


def random_segment(recording: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Return a random segment [length] of a recording [T], which is repeated if it is too short."""
    if len(recording) < length:
        recording = recording.repeat(-(-length // len(recording)) + 1)
    start = int(torch.randint(len(recording) - length + 1, (), generator=generator))
    return recording[start : start + length]
