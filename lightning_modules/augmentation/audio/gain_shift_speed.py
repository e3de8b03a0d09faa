"""Gain, polarity, time shift and speed of recordings."""

import math

import torch
from torch import Tensor, nn

from lightning_modules.augmentation.audio.wave_transform import WaveTransform, db_to_amplitude
from lightning_modules.augmentation.per_sample import check_range, uniform
from lightning_modules.config.bounds import NonNegative, bounded

DENSITY = 3  # upsampling factor before polynomial interpolation
MARGIN = 64  # samples of zero padding, against wrap-around
EDGE = 0.05  # transition width of the low-pass filter, relative to half the sample rate


class Gain(WaveTransform):
    """Multiplies each recording by a random gain, uniform in decibels.

    Args:
        min_db, max_db: range of the gain; 6 dB double the amplitude.
    """

    def __init__(self, min_db: float = -12.0, max_db: float = 12.0, probability: float = 1.0) -> None:
        super().__init__(probability)
        check_range(self, "[min_db, max_db]", (min_db, max_db))
        self.min_db, self.max_db = min_db, max_db

    def transform_wave(self, wave: Tensor, generator: torch.Generator) -> Tensor:
        gain = db_to_amplitude(uniform(len(wave), self.min_db, self.max_db, generator))
        return wave * gain[:, None].to(wave.device)


class Polarity(WaveTransform):
    """Inverts the polarity of recordings, which is inaudible."""

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__(probability)

    def transform_wave(self, wave: Tensor, generator: torch.Generator) -> Tensor:
        return -wave


class TimeShift(WaveTransform):
    """Shifts each recording by an integer number of samples, filling with silence.

    Args:
        max_fraction: maximum shift as a fraction of the length, in both directions.
    """

    @bounded
    def __init__(self, max_fraction: NonNegative = 0.1, probability: float = 1.0) -> None:
        super().__init__(probability)
        self.max_fraction = max_fraction

    def transform_wave(self, wave: Tensor, generator: torch.Generator) -> Tensor:
        count, length = wave.shape
        furthest = min(length, int(self.max_fraction * length))
        later = torch.randint(-furthest, furthest + 1, (count, 1), generator=generator).to(wave.device)
        place = torch.arange(length, device=wave.device) - later
        inside = (place >= 0) & (place < length)
        return wave.gather(1, place.clamp(0, length - 1)) * inside


class SpeedPerturbation(WaveTransform):
    """Resamples each recording around its middle, which changes speed, pitch and timbre.

    Ko et al. 2015, "Audio Augmentation for Speech Recognition" (speed perturbation), with a log-uniform rate per sample.

    Args:
        min_rate, max_rate: 2 is twice as fast and an octave higher.
    """

    def __init__(self, min_rate: float = 0.85, max_rate: float = 1.15, probability: float = 1.0) -> None:
        super().__init__(probability)
        check_range(self, "[min_rate, max_rate]", (min_rate, max_rate), 0.1)
        self.min_rate, self.max_rate = min_rate, max_rate

    def transform_wave(self, wave: Tensor, generator: torch.Generator) -> Tensor:
        return change_speed(wave, self.draw_rates(len(wave), generator))

    def draw_rates(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw rates [count], on the CPU."""
        return uniform(count, math.log(self.min_rate), math.log(self.max_rate), generator).exp()


def change_speed(wave: Tensor, rate: Tensor) -> Tensor:
    """Return [n, T] whose sample t is `wave` at ``middle + (t - middle) * rate``; silence beyond its ends.

    `wave` is float32 [n, T], `rate` [n]. `wave` is upsampled by FFT, then interpolated by cubic polynomials (error
    below 1 % up to 3/4 of half the sample rate). For rates above 1, an anti-aliasing filter removes all above
    1 / rate of half the sample rate.
    """
    length = wave.shape[1]
    rate = rate.to(wave.device)[:, None]
    dense = nn.functional.pad(_upsample(wave, rate), (2, 2))
    middle = (length - 1) / 2
    place = (torch.arange(length, device=wave.device) - middle) * rate.double() + middle
    inside = (place > -1) & (place < length)
    place = (place * DENSITY).clamp_(-1, length * DENSITY - 1)
    first = place.floor()
    t = (place - first).float()
    index = first.long() + 1  # of the value before the nearest lower one: two zeros are prepended
    before, at, after, last = (dense.gather(1, index + k) for k in range(4))
    # Lagrange polynomial through the four
    b, c = (before + after) / 2 - at, (last - before) / 6 + (at - after) / 2
    return torch.where(inside, at + t * ((after - before / 3 - at / 2 - last / 6) + t * (b + t * c)), 0.0)


def _upsample(wave: Tensor, rate: Tensor) -> Tensor:
    """Upsample [n, T] to [n, DENSITY * T]; low-pass at 1 / rate of half the sample rate."""
    length = wave.shape[1]
    size = 2 ** math.ceil(math.log2(length + MARGIN))
    spectrum = torch.fft.rfft(wave, size)
    frequency = torch.linspace(0, 1, spectrum.shape[1], device=wave.device)
    passed = ((1 / rate - frequency) / EDGE).clamp(0, 1)
    kept = torch.where(rate > 1, passed, 1.0)
    return torch.fft.irfft(spectrum * kept, DENSITY * size)[:, : DENSITY * length] * DENSITY
