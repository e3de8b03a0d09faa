"""Base of waveform transforms: conversion to floats, clipping, reading of folders of recordings."""

from abc import abstractmethod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_modules.augmentation.per_sample import PerSampleTransform, unsupported
from lightning_modules.config.errors import UserError
from lightning_modules.data.in_memory import InMemoryData
from lightning_modules.zoo.data.audio_file import SUFFIXES, read_recordings

FULL_SCALE = 32768.0  # of int16, as floats 1


class WaveTransform(PerSampleTransform):
    """Changes waveforms [B, T] of int16 or floats; subclasses implement `transform_wave` on float32 in [-1, 1).

    Results are clipped to the range of int16; floats are not clipped.
    """

    def check(self, x: Tensor) -> None:
        """Raise UserError if the samples are not waveforms."""
        if x.ndim != 2 or not (x.dtype == torch.int16 or x.is_floating_point()):
            hint = "; with log-mel features (data.features=log_mel, or after ToLogMel) use SpecAugment"
            raise unsupported(self, "waveforms [T] of int16 or floats", x, hint)

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            if x.dtype != torch.int16:
                return self.transform_wave(x.float(), generator).to(x.dtype)
            changed = self.transform_wave(x.float() / FULL_SCALE, generator)
            return (changed * FULL_SCALE).round_().clamp_(-FULL_SCALE, FULL_SCALE - 1).to(torch.int16)

    @abstractmethod
    def transform_wave(self, wave: Tensor, generator: torch.Generator) -> Tensor:
        """Return transformed waveforms float32 [n, T], on the same device."""


def db_to_amplitude(values: Tensor) -> Tensor:
    """Convert dB to amplitude factors."""
    return 10 ** (values / 20)


def rms(wave: Tensor) -> Tensor:
    """Return the root mean square [n, 1] of [n, T]."""
    return wave.square().mean(1, keepdim=True).sqrt()


def read_audio_folder(transform: object, folder: str | Path, sample_rate: int) -> list[Tensor]:
    """Read all audio files below `folder` as float32 [T]. Raises UserError if there are none, or damaged ones."""
    files = sorted(p for p in Path(folder).expanduser().rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise UserError(f"augmentation: {type(transform).__name__}.folder={folder}: there are no audio files in it")
    return [torch.from_numpy(wave.astype(np.float32)) / FULL_SCALE for wave in read_recordings(files, sample_rate)]


def sample_rate_of(transform: object, data: InMemoryData) -> int:
    """Return the sample rate of the datamodule in Hz. Raises UserError if it has none."""
    rate = getattr(data, "sample_rate", None)
    if rate is None:
        raise UserError(f"augmentation: {type(transform).__name__} needs recordings; {data.name} has no sample rate")
    return int(rate)
