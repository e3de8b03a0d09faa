"""Reverberation: convolution with room impulse responses."""

import math
from pathlib import Path

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
from lightning_modules.data.in_memory import InMemoryData


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
        require_range(self, "[min_seconds, max_seconds]", min_seconds, max_seconds, least=0.001)
        require_range(self, "[min_direct_db, max_direct_db]", min_direct_db, max_direct_db)
        self.min_seconds, self.max_seconds = min_seconds, max_seconds
        self.min_direct_db, self.max_direct_db = min_direct_db, max_direct_db
        self.folder = folder
        self.sample_rate = 8000
        self.responses: list[Tensor] = []

    def prepare(self, data: InMemoryData) -> None:
        """Read the sample rate of the data, and the folder."""
        self.sample_rate = sample_rate_of(self, data)
        if self.folder is not None:
            self.responses = [_trim_before_peak(one) for one in read_audio_folder(self, self.folder, self.sample_rate)]

    def transform_wave(self, wave: Tensor, generator: torch.Generator) -> Tensor:
        rooms = to_device_of(wave, self._rooms(len(wave), wave.shape[1], generator))
        wet = fft_convolve(wave, rooms)
        level = rms(wet)
        return wet * torch.where(level > 0, rms(wave) / level, 1.0)

    def _rooms(self, count: int, length: int, generator: torch.Generator) -> Tensor:
        """Draw impulse responses float32 [count, R] on the CPU, no longer than a recording."""
        if self.responses:
            which = torch.randint(len(self.responses), (count,), generator=generator).tolist()
            longest = min(length, max(len(self.responses[k]) for k in which))
            rooms = torch.zeros(count, longest)
            for room, k in zip(rooms, which, strict=True):
                kept = self.responses[k][:longest]
                room[: len(kept)] = kept
            return rooms
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


def _trim_before_peak(response: Tensor) -> Tensor:
    return response[int(response.abs().argmax()) :]
