"""What all sets of recordings share: their length and rate, and log-mel features, made in preprocessing or once."""

from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from lightning_modules.config.errors import suggest
from lightning_modules.data.audio_file import fit_length
from lightning_modules.data.in_memory import InMemoryData
from lightning_modules.data.log_mel import LogMel, MelSpectrum, spectrum_problems
from lightning_modules.data.preprocess import CHUNK_SAMPLES, SampleSource
from lightning_modules.data.split import check_number

AudioFeatures = Literal["waveform", "log_mel"]


class AudioData(InMemoryData):
    """Recordings of one length; subclasses implement `load` with `waves` or `features`.

    Args:
        seconds: every recording is padded or cut to this around its middle; `cut` counts those that were longer.
        sample_rate: Hz.
        features: "waveform": x is int16 [T], and log-mel features are made in preprocessing, behind the augmentation;
            "log_mel": x is float32 [1, n_mels, frames], made once: several times faster, and SpecAugment alone
            can augment it.
        n_fft, hop: samples in a window of the spectrum, and between two; n_mels: bands.
    """

    domain = "audio"

    def __init__(
        self,
        *,
        seconds: float = 1.0,
        sample_rate: int = 8000,
        features: AudioFeatures = "waveform",
        n_fft: int = 256,
        hop: int = 80,
        n_mels: int = 40,
        **settings: Any,
    ) -> None:
        self.seconds, self.sample_rate, self.features = seconds, sample_rate, features
        self.n_fft, self.hop, self.n_mels = n_fft, hop, n_mels
        self.cut = 0
        super().__init__(**settings)

    def problems(self) -> list[str]:
        """Check the settings of recordings too."""
        found = super().problems() + spectrum_problems(self.n_fft, self.hop, self.n_mels)
        found += check_number("sample_rate", self.sample_rate, True, lambda v: v >= 1000, "of at least 1000")
        found += check_number("seconds", self.seconds, False, lambda v: 0 < v <= 600, "in (0, 600]")
        if self.features not in get_args(AudioFeatures):
            found.append(f"data.features={self.features}: {suggest(str(self.features), get_args(AudioFeatures))}")
        return found

    @property
    def length(self) -> int:
        """Samples in each recording."""
        return max(1, round(self.seconds * self.sample_rate))

    def samples(self, waves: list[np.ndarray]) -> Tensor:
        """Recordings int16 [T] each as x of the set, in the form that `features` says; counts what is cut."""
        self.cut += sum(len(wave) > self.length for wave in waves)
        x = torch.from_numpy(np.stack([fit_length(wave, self.length) for wave in waves]))
        if self.features == "waveform":
            return x
        spectrum = MelSpectrum(self.sample_rate, self.n_fft, self.hop, self.n_mels)
        return torch.cat([spectrum(part) for part in x.split(CHUNK_SAMPLES)])

    def build_preprocess(self, x: SampleSource, train: Tensor) -> nn.Module:
        """Log-mel features, normalised by the training part."""
        return LogMel(self.sample_rate, self.n_fft, self.hop, self.n_mels).fit(x, train)

    def model_settings(self) -> dict[str, Any]:
        """What a recurrent network must know of the features."""
        return {"n_mels": self.n_mels}
