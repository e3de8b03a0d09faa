"""Log-mel spectrograms: the input features of speech networks."""

import math
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict
from lightning_modules.data.preprocess import SampleSource, Standardize

WindowLength = Annotated[int, Ge(16)]
POWER_FLOOR = 1e-6  # power of silence; about the noise floor of a 16-bit recording


class MelSpectrum(nn.Module):
    """``log(power in mel bands + 1e-6)`` of waveforms.

    Power of a centered STFT (periodic Hann window, reflected ends) of samples scaled to [-1, 1), summed with triangular
    filters of height 1, evenly spaced on the mel scale ``2595 log10(1 + f / 700)`` from 0 to half the sample rate.

    Args:
        sample_rate: Hz.
        n_fft: window length in samples; hop: hop length; n_mels: number of mel bands.

    Raises UserError if a setting is out of range, or a mel band contains no frequency of the transform.
    """

    @bounded
    def __init__(self, sample_rate: int, n_fft: WindowLength, hop: Count, n_mels: Count) -> None:
        super().__init__()
        check_hop(hop, n_fft)
        self.n_fft, self.hop = n_fft, hop
        filters = mel_filters(sample_rate, n_fft, n_mels)
        if not filters.sum(0).all():
            raise UserError(
                f"data.n_mels={n_mels} is too many for data.n_fft={n_fft}: a band would be empty; lower n_mels or raise n_fft"
            )
        # not persistent: they follow from the settings
        self.register_buffer("window", torch.hann_window(n_fft, dtype=torch.float64).float(), persistent=False)
        self.register_buffer("filters", filters, persistent=False)
        # part of the data fingerprint, which covers buffers only
        self.register_buffer("settings", torch.tensor([sample_rate, n_fft, hop, n_mels]), persistent=False)
        self.window: Tensor
        self.filters: Tensor
        self.settings: Tensor

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Waveforms int16 or float [B, T] -> [B, 1, n_mels, frames], frames = T // hop + 1.

        Computed in float32, returned in the training dtype (``trainer.precision``).
        """
        with torch.autocast(x.device.type, enabled=False):
            wave = self.extend(as_float_audio(x))
            bins = torch.stft(wave, self.n_fft, self.hop, window=self.window.float(), center=False, return_complex=True)
            power = bins.real.square() + bins.imag.square()
            return torch.log(self.filters.float().T @ power + POWER_FLOOR)[:, None].to(self.filters.dtype)

    def extend(self, wave: Tensor) -> Tensor:
        """Return waveforms [B, T] with half a window more on either side: reflected, beyond that zeros."""
        pad = min(self.n_fft // 2, wave.shape[1] - 1)  # a reflection cannot be longer than the signal
        rest = self.n_fft // 2 - pad
        return nn.functional.pad(nn.functional.pad(wave, (pad, pad), mode="reflect"), (rest, rest))


def check_hop(hop: int, n_fft: int) -> None:
    """Raise UserError if windows would not overlap."""
    if hop > n_fft:
        raise UserError(f"data.hop={hop} exceeds data.n_fft={n_fft}: parts of the signal would be skipped")


def as_float_audio(x: Tensor) -> Tensor:
    """Return samples as float32: int16 scaled to [-1, 1), floats unchanged."""
    return x.float() / 32768 if x.dtype == torch.int16 else x.float()


def mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """Return triangular filters float32 [n_fft // 2 + 1, n_mels], rounded to be equal on all machines."""
    highest = 2595 * math.log10(1 + sample_rate / 2 / 700)
    corners = 700 * (10 ** (torch.linspace(0, highest, n_mels + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)[:, None]
    left, middle, right = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (bins - left) / (middle - left), (right - bins) / (right - middle)
    return torch.minimum(rising, falling).clamp(min=0).round(decimals=6).float()


class LogMel(nn.Module):
    """Waveforms to log-mel features with mean 0 and std 1 in each band over the training part.

    Inputs that are already features ([B, 1, n_mels, frames], from the datamodule or an augmentation) are only normalized.

    Args:
        mean, std: of the log power of each band, [n_mels].
    """

    def __init__(
        self,
        sample_rate: int,
        n_fft: int,
        hop: int,
        n_mels: int,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        fitted: bool = False,
    ) -> None:
        super().__init__()
        self.spectrum = MelSpectrum(sample_rate, n_fft, hop, n_mels)
        self.normalise = Standardize(mean or [0.0] * n_mels, std or [1.0] * n_mels, fitted)

    def fit(self, store: SampleSource, indices: Tensor) -> "LogMel":
        """Fit mean and std on ``store[indices]``, waveforms or features."""
        self.normalise = Standardize.fit(_MelFeatures(store, self.spectrum), indices)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """[B, T] or [B, 1, n_mels, frames] -> float32 [B, 1, n_mels, frames]."""
        features = x if x.ndim == 4 else self.spectrum(x)
        normal: Tensor = self.normalise(features[:, 0])
        return normal[:, None]

    def recipe(self) -> PlainDict:
        """Return the plain values from which ``hydra.utils.instantiate`` rebuilds this module."""
        names = ("sample_rate", "n_fft", "hop", "n_mels")
        return {
            "_target_": f"{LogMel.__module__}.{LogMel.__qualname__}",
            **dict(zip(names, self.spectrum.settings.tolist(), strict=True)),
            "mean": self.normalise.shift.tolist(),
            "std": self.normalise.scale.tolist(),
            "fitted": self.normalise.fitted,
        }


class _MelFeatures:
    """The features [N, n_mels, frames] of another source, computed on access."""

    dtype = torch.float32

    def __init__(self, store: SampleSource, spectrum: MelSpectrum) -> None:
        self.store, self.spectrum = store, spectrum
        self.shape = torch.Size((len(store), spectrum.filters.shape[1]))

    def __len__(self) -> int:
        return len(self.store)

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        x = self.store.index_select(0, index)
        return (x if x.ndim == 4 else self.spectrum(x))[:, 0]
