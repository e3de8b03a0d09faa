"""Augmentation of padded recordings of several lengths, one by one, and speed that changes the length."""

import math

import torch
from torch import Tensor, nn

from lightning_modules.augmentation.audio.gain_shift_speed import SpeedPerturbation, change_speed
from lightning_modules.augmentation.audio.noise_reverberation import BackgroundNoise
from lightning_modules.config.errors import UserError
from lightning_modules.data.compose import Compose
from lightning_modules.zoo.data.speech import PADDING, lengths_of, pad_waves


class EachRecording(Compose):
    """Applies `transforms` to each recording of a batch without its padding, and pads the results to the longest.

    So noise has the level of the recording's own samples, and masks of SpecAugment are fractions of its own frames.
    """

    def prepare(self, data: object) -> None:
        """As in `Compose`. Raises UserError for noise from training recordings, which have other lengths."""
        if any(isinstance(one, BackgroundNoise) and one.source == "training" for one in self.transforms):
            raise UserError("augmentation: BackgroundNoise.source=training needs recordings of one length; use folder")
        super().prepare(data)

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        x, changed = batch["x"], []
        for row, length in zip(x, lengths_of(x).tolist(), strict=True):
            one = row[None, ..., :length]
            for transform in self.transforms:
                one = transform({"x": one}, generator)["x"]
                one = one if one.is_floating_point() else one.clamp(min=PADDING + 1)
            changed.append(one[0])
        return {**batch, "x": pad_waves(changed)}


class SpeedAndLength(SpeedPerturbation):
    """Resamples recordings at one rate for all that are given; nothing is cut, as the length changes with the speed.

    For `EachRecording`, which gives one recording at a time.
    """

    def transform_wave(self, wave: Tensor, generator: torch.Generator) -> Tensor:
        rate = self.draw_rates(1, generator)
        length = wave.shape[1]
        wanted = max(1, math.ceil(length / float(rate)))
        room = max(0, wanted - length)
        changed = change_speed(nn.functional.pad(wave, (room // 2, room - room // 2)), rate.expand(len(wave)))
        start = (changed.shape[1] - wanted) // 2
        return changed[:, start : start + wanted]
