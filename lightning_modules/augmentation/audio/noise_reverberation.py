"""Background noise at a random signal-to-noise ratio, and reverberation by room impulse responses."""

import math
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_modules.augmentation.audio.wave_transform import (
    WaveTransform,
    db_to_amplitude,
    read_audio_folder,
    rms,
    sample_rate_of,
)
from lightning_modules.augmentation.per_sample import check_range, require_prepared, to_device_of, uniform
from lightning_modules.config.bounds import bounded
from lightning_modules.config.errors import UserError
from lightning_modules.data.in_memory import InMemoryData
from lightning_modules.data.preprocess import SampleSource
from lightning_modules.zoo.data.log_mel import as_float_audio


class BackgroundNoise(WaveTransform):
    """Adds noise at a signal-to-noise ratio that is uniform in decibels.

    Powers are means over the whole sample, including silence. A silent sample stays silent.

    Args:
        min_snr_db, max_snr_db: range of the signal-to-noise ratio.
        source: "white", "pink" (equal power in every octave), "training" (another training recording) or "folder".
        folder: of .wav files, from which random segments are taken (repeated if too short).
    """

    @bounded
    def __init__(
        self,
        min_snr_db: float = 5.0,
        max_snr_db: float = 30.0,
        source: Literal["white", "pink", "training", "folder"] = "white",
        folder: str | Path | None = None,
        probability: float = 0.5,
    ) -> None:
        super().__init__(probability)
        check_range(self, "[min_snr_db, max_snr_db]", (min_snr_db, max_snr_db))
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
        require_prepared(self, self.recordings)
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


class Reverberation(WaveTransform):
    """Convolves each recording with a random room impulse response; the power is unchanged.

    Without a folder, a response is the direct sound followed by white noise that decays exponentially by 60 dB in the
    reverberation time (Polack's model: Moorer 1979, "About this reverberation business").

    Args:
        min_seconds, max_seconds: range of the reverberation time (RT60).
        min_direct_db, max_direct_db: range of the direct-to-reverberant energy ratio.
        folder: impulse responses as .wav files to use instead; their peak is the direct sound.
    """

    def __init__(
        self,
        min_seconds: float = 0.1,
        max_seconds: float = 0.6,
        min_direct_db: float = 0.0,
        max_direct_db: float = 15.0,
        folder: str | Path | None = None,
        probability: float = 0.5,
    ) -> None:
        super().__init__(probability)
        check_range(self, "[min_seconds, max_seconds]", (min_seconds, max_seconds), 0.001)
        check_range(self, "[min_direct_db, max_direct_db]", (min_direct_db, max_direct_db))
        self.min_seconds, self.max_seconds = min_seconds, max_seconds
        self.min_direct_db, self.max_direct_db = min_direct_db, max_direct_db
        self.folder, self.sample_rate = folder, 8000
        self.responses: list[Tensor] = []

    def prepare(self, data: InMemoryData) -> None:
        """Read the sample rate of the data, and the folder."""
        self.sample_rate = sample_rate_of(self, data)
        if self.folder is not None:
            found = read_audio_folder(self, self.folder, self.sample_rate)
            self.responses = [response[int(response.abs().argmax()) :] for response in found]

    def transform_wave(self, wave: Tensor, generator: torch.Generator) -> Tensor:
        rooms = to_device_of(wave, self._rooms(len(wave), wave.shape[1], generator))
        wet = fft_convolve(wave, rooms)
        level = rms(wet)
        return wet * torch.where(level > 0, rms(wave) / level, 1.0)

    def _rooms(self, count: int, length: int, generator: torch.Generator) -> Tensor:
        """Draw impulse responses float32 [count, R] on the CPU, no longer than a recording."""
        if self.responses:
            which = torch.randint(len(self.responses), (count,), generator=generator).tolist()
            return nn.utils.rnn.pad_sequence([self.responses[k][:length] for k in which], batch_first=True)
        size = max(2, min(length, math.ceil(self.max_seconds * self.sample_rate)))
        seconds = uniform(count, self.min_seconds, self.max_seconds, generator)[:, None]
        direct = db_to_amplitude(uniform(count, self.min_direct_db, self.max_direct_db, generator))[:, None]
        time = torch.arange(size) / self.sample_rate
        rooms = torch.randn(count, size, generator=generator) * torch.exp(-math.log(1000) * time / seconds)
        rooms[:, 0] = 0
        rooms /= rooms.square().sum(1, keepdim=True).sqrt().clamp(min=1e-12) * direct
        rooms[:, 0] = 1
        return rooms


def fft_convolve(wave: Tensor, response: Tensor) -> Tensor:
    """Return the first T samples of the convolution of [n, T] with [n, R], by FFT."""
    length = wave.shape[1]
    size = 2 ** math.ceil(math.log2(max(2, length + response.shape[1] - 1)))
    return torch.fft.irfft(torch.fft.rfft(wave, size) * torch.fft.rfft(response, size), size)[:, :length]
