"""SpecAugment: masks of log-mel features."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.augmentation.per_sample import PerSampleTransform, require_prepared, unsupported
from lightning_modules.config.bounds import Fraction, Whole, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.data.in_memory import InMemoryData


class ToLogMel(nn.Module):
    """Computes the log-mel features of the data's preprocessing, for transforms such as SpecAugment after it.

    Transforms of waveforms come before it; preprocessing then only normalizes. Inputs that are already log-mel
    features (data.features=log_mel) are unchanged.
    """

    def __init__(self) -> None:
        super().__init__()
        self.spectrum: Any = None

    def prepare(self, data: InMemoryData) -> None:
        """Take the spectrogram module from the data's preprocessing."""
        self.spectrum = getattr(data.preprocess, "spectrum", None)
        if self.spectrum is None:
            raise UserError(
                f"augmentation: ToLogMel needs recordings; the preprocessing of {data.name} computes no log-mel features"
            )

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Convert ``batch["x"]`` [B, T] to [B, 1, n_mels, frames]."""
        if batch["x"].ndim == 4:
            return batch
        require_prepared(self, self.spectrum)
        return {**batch, "x": self.spectrum(batch["x"])}


class SpecAugment(PerSampleTransform):
    """Masks bands and frames of log-mel features (Park et al. 2019, section 2, steps 2 and 3; without time warping).

    Width and position of each mask are uniform. Masked values are set to the training part's mean of the band, which
    preprocessing maps to 0; without `prepare`, to the sample's mean.

    Args:
        bands: maximum width of a frequency mask (F in the paper); frequency_masks: their number.
        frames: maximum width of a time mask (T) as a fraction of all frames; time_masks: their number.
    """

    @bounded
    def __init__(
        self,
        bands: Whole = 8,
        frames: Fraction = 0.15,
        frequency_masks: Whole = 1,
        time_masks: Whole = 1,
        probability: float = 1.0,
    ) -> None:
        super().__init__(probability)
        self.bands, self.frames = bands, frames
        self.frequency_masks, self.time_masks = frequency_masks, time_masks
        self.mean: Tensor | None = None

    def prepare(self, data: InMemoryData) -> None:
        """Take the mean of each band from the data's preprocessing."""
        normalise = getattr(data.preprocess, "normalise", None)
        self.mean = None if normalise is None else normalise.shift.detach().clone()[:, None]

    def check(self, x: Tensor) -> None:
        """Raise UserError if the samples are not log-mel features."""
        if x.ndim != 4 or x.shape[1] != 1 or not x.is_floating_point():
            hint = "; use data.features=log_mel, or ToLogMel before it"
            raise unsupported(self, "log-mel features [1, n_mels, frames]", x, hint)

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        count, _, bands, frames = x.shape
        longest = int(self.frames * frames)
        rows = random_mask(count, self.frequency_masks, bands, min(self.bands, bands), generator)
        columns = random_mask(count, self.time_masks, frames, longest, generator)
        masked = (rows[:, None, :, None] | columns[:, None, None, :]).to(x.device)
        fill = x.mean((2, 3), keepdim=True) if self.mean is None else self.mean.to(x.device, x.dtype)
        return torch.where(masked, fill, x)


def random_mask(count: int, masks: int, size: int, widest: int, generator: torch.Generator) -> Tensor:
    """Draw bool [count, size] on the CPU: true in `masks` random intervals of 0 … `widest` positions each."""
    width = torch.randint(widest + 1, (count, masks, 1), generator=generator)
    start = (torch.rand(count, masks, 1, generator=generator) * (size - width + 1)).long()
    place = torch.arange(size)
    return ((place >= start) & (place < start + width)).any(1)
