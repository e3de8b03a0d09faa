"""Random gain and polarity of recordings."""

import torch
from torch import Tensor

from lightning_modules.augmentation.audio.wave_transform import WaveTransform, db_to_amplitude, require_range
from lightning_modules.augmentation.per_sample import uniform


class Gain(WaveTransform):
    """Multiplies each recording by a random gain, uniform in decibels.

    Args:
        min_db, max_db: range of the gain; 6 dB double the amplitude.
    """

    def __init__(self, min_db: float = -12.0, max_db: float = 12.0, probability: float = 1.0) -> None:
        super().__init__(probability)
        require_range(self, "[min_db, max_db]", min_db, max_db)
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
