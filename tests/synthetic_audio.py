"""Waveforms and recordings made by hand."""

import math
import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sine(frequency: float = 440.0, count: int = 1, length: int = 8000, level: float = 0.5) -> Tensor:
    """float32 [count, length] at 8 kHz."""
    return (level * torch.sin(2 * math.pi * frequency * torch.arange(length) / 8000)).repeat(count, 1)


def hiss(count: int, length: int = 800, level: float = 0.1) -> Tensor:
    """White noise, float32 [count, length]."""
    return level * torch.randn(count, length, generator=generator(9))


def int16(sound: Tensor) -> Tensor:
    return (sound * 32767).round().to(torch.int16)


def level_db(sound: Tensor) -> Tensor:
    """Power [n] of [n, T] in dB of full scale."""
    return 10 * sound.double().square().mean(-1).log10()


def write_wav(path: Path, samples: np.ndarray, rate: int = 8000, channels: int = 1) -> Path:
    """int16 [T] or [T, channels]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as opened:
        opened.setnchannels(channels)
        opened.setsampwidth(2)
        opened.setframerate(rate)
        opened.writeframes(samples.astype("<i2").tobytes())
    return path


def write_spoken_digits(root: Path, speakers: tuple[str, ...] = ("ann", "bob", "cid"), indices: int = 7) -> Path:
    """The ten digits by each speaker; a digit is a tone, a speaker its loudness. Return the folder of the files."""
    folder = root / "fsdd" / "recordings"
    for loud, speaker in enumerate(speakers, 1):
        for digit in range(10):
            for index in range(indices):
                tone = sine(300 + 200 * digit, length=3000 + 100 * index, level=0.1 * loud)[0].numpy()
                write_wav(folder / f"{digit}_{speaker}_{index}.wav", tone * 32767)
    return folder
