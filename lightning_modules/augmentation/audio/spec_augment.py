"""Log-mel features within the augmentation, and masks of them."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.augmentation.per_sample import PerSampleTransform
from lightning_modules.config.errors import UserError


class ToLogMel(nn.Module):
    """Makes the features that the data's preprocessing would make, so that transforms behind it see them.

    Transforms of waveforms stand before it, SpecAugment behind it; preprocessing then only normalises. What is log-mel
    already (data.features=log_mel) is passed on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.spectrum: nn.Module | None = None

    def prepare(self, data: Any) -> None:
        """Take the spectrum of the data's preprocessing."""
        self.spectrum = getattr(data.preprocess, "spectrum", None)
        if self.spectrum is None:
            raise UserError(
                f"augmentation: ToLogMel needs recordings; the preprocessing of {data.name} makes no features"
            )

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Turn ``batch["x"]`` [B, T] into [B, 1, n_mels, frames]."""
        if batch["x"].ndim == 4:
            return batch
        if self.spectrum is None:
            raise UserError("augmentation: ToLogMel must be shown the data: call prepare(data) first")
        return {**batch, "x": self.spectrum(batch["x"])}


class SpecAugment(PerSampleTransform):
    """Masks bands and frames of log-mel features (Park et al. 2019, section 2, steps 2 and 3; without time warping).

    Each mask's width is uniform in 0 … its largest, its place uniform. Masked values become what preprocessing makes
    0 of, the training part's mean of the band; without `prepare`, the sample's own mean.

    Args:
        bands: largest width of a frequency mask (the paper's F); frequency_masks: how many.
        frames: largest width of a time mask (T), as a fraction of all frames; time_masks: how many.
    """

    def __init__(
        self,
        bands: int = 8,
        frames: float = 0.15,
        frequency_masks: int = 1,
        time_masks: int = 1,
        probability: float = 1.0,
    ) -> None:
        super().__init__(probability)
        for name, value in (("bands", bands), ("frequency_masks", frequency_masks), ("time_masks", time_masks)):
            if value < 0:
                raise UserError(f"augmentation: SpecAugment.{name}={value} must be at least 0")
        if not 0 <= frames <= 1:
            raise UserError(f"augmentation: SpecAugment.frames={frames} must lie in [0, 1]")
        self.bands, self.frames = bands, frames
        self.frequency_masks, self.time_masks = frequency_masks, time_masks
        self.mean: Tensor | None = None

    def prepare(self, data: Any) -> None:
        """Take the bands' means of the data's preprocessing."""
        normalise = getattr(data.preprocess, "normalise", None)
        self.mean = None if normalise is None else normalise.shift.detach().clone()[:, None]

    def check(self, x: Tensor) -> None:
        """Raise UserError where the samples are no features."""
        if x.ndim != 4 or x.shape[1] != 1 or not x.is_floating_point():
            raise UserError(
                f"augmentation: SpecAugment needs log-mel features [1, n_mels, frames], but a sample has shape "
                f"{tuple(x.shape[1:])}; use data.features=log_mel, or put ToLogMel before it"
            )

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        count, _, bands, frames = x.shape
        longest = int(self.frames * frames)
        rows = random_mask(count, self.frequency_masks, bands, min(self.bands, bands), generator)
        columns = random_mask(count, self.time_masks, frames, longest, generator)
        masked = (rows[:, None, :, None] | columns[:, None, None, :]).to(x.device)
        fill = x.mean((2, 3), keepdim=True) if self.mean is None else self.mean.to(x.device, x.dtype)
        return torch.where(masked, fill, x)


def random_mask(count: int, masks: int, size: int, widest: int, generator: torch.Generator) -> Tensor:
    """bool [count, size] on the CPU: what `masks` runs of 0 … `widest` positions cover, each anywhere inside."""
    width = torch.randint(widest + 1, (count, masks, 1), generator=generator)
    start = (torch.rand(count, masks, 1, generator=generator) * (size - width + 1)).long()
    place = torch.arange(size)
    return ((place >= start) & (place < start + width)).any(1)
