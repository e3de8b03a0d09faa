"""Recordings from .wav files: PCM of 16 or 8 bits, mixed to one channel and brought to one sample rate and length."""

import math
import wave
from pathlib import Path

import numpy as np

from lightning_modules.errors import UserError


def read_wav(path: Path, sample_rate: int) -> np.ndarray:
    """Return int16 [T] at `sample_rate` (Hz); several channels are averaged.

    Raises:
        UserError: the file is damaged or empty, or no PCM of 16 or 8 bits.
    """
    try:
        with wave.open(str(path), "rb") as opened:
            channels, width, rate, frames = opened.getparams()[:4]
            raw = opened.readframes(frames)
    except (wave.Error, EOFError, OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as a .wav file ({str(error) or 'it ends too early'}): repair it"
        ) from error
    if width not in (1, 2):
        raise UserError(f"{path} holds samples of {8 * width} bits: PCM of 16 (or 8) bits is needed; convert it")
    if not raw or len(raw) != frames * channels * width or rate < 1:
        raise UserError(f"{path} holds {len(raw)} bytes of sound where {frames * channels * width} are said: repair it")
    # 8 bits are counted from 0 in the format, 16 bits around 0
    values = np.frombuffer(raw, "<i2") if width == 2 else (np.frombuffer(raw, np.uint8).astype(np.int16) - 128) * 256
    if channels > 1:
        values = values.reshape(-1, channels).mean(1).round()
    return resample(values.astype(np.int16), rate, sample_rate)


def resample(wave: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Return int16 [T * wanted / rate], low-passed below half of the lower rate (a windowed sinc)."""
    if rate == wanted:
        return wave
    from scipy.signal import resample_poly

    divisor = math.gcd(rate, wanted)
    changed = resample_poly(wave.astype(np.float64), wanted // divisor, rate // divisor)
    return np.clip(changed.round(), -32768, 32767).astype(np.int16)


def fit_length(wave: np.ndarray, length: int) -> np.ndarray:
    """Return int16 [length] with `wave` in its middle: zeros around a shorter one, both ends of a longer one cut."""
    spare = length - len(wave)
    if spare < 0:
        start = -spare // 2
        return wave[start : start + length]
    return np.pad(wave, (spare // 2, spare - spare // 2))
