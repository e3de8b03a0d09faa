"""Augmentation of time series: shift, scale and noise."""

import torch
from torch import Tensor

from lightning_modules.augmentation.per_sample import PerSampleTransform, to_device_of, uniform, unsupported
from lightning_modules.config.bounds import Fraction, NonNegative, bounded


class TimeSeriesJitter(PerSampleTransform):
    """Shifts a series cyclically, scales it, and adds noise (Um et al. 2017, "Data Augmentation of Wearable Sensor Data").

    Args:
        shift: maximum shift as a fraction of the length.
        scale: the factor is drawn from [1 - scale, 1 + scale].
        noise: standard deviation of the noise, relative to that of the series.
    """

    @bounded
    def __init__(
        self, shift: Fraction = 0.1, scale: Fraction = 0.2, noise: NonNegative = 0.05, probability: float = 1.0
    ) -> None:
        super().__init__(probability)
        self.shift, self.scale, self.noise = shift, scale, noise

    def check(self, x: Tensor) -> None:
        """Raise UserError if the samples are not series of floats."""
        if x.ndim not in (2, 3) or not x.is_floating_point():
            raise unsupported(self, "series of floats [length] or [channels, length]", x)

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Transform series [n, L] or [n, C, L]; all channels of a series share shift and scale."""
        count, length = len(x), x.shape[-1]
        most = round(self.shift * length)
        moves = torch.randint(-most, most + 1, (count,), generator=generator)
        places = (torch.arange(length) - moves[:, None]) % length
        factor = uniform(count, 1 - self.scale, 1 + self.scale, generator)
        noise = to_device_of(x, torch.randn(x.shape, generator=generator)).to(x.dtype)
        per_sample = (count, *[1] * (x.ndim - 1))
        spread = x.flatten(1).std(1, correction=0).view(per_sample)
        index = places.view(count, *[1] * (x.ndim - 2), length).expand(x.shape).to(x.device)
        return x.gather(-1, index) * factor.view(per_sample).to(x.device, x.dtype) + self.noise * spread * noise
