"""Recordings from audio files: mixed to one channel and brought to one sample rate and length."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pytorch_lightning.utilities import rank_zero_warn

from lightning_modules.config.errors import UserError
from lightning_modules.data.class_folders import read_in_threads
from lightning_modules.data.size_checks import require_plausible

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff")
_INT16 = ("PCM_16", "PCM_U8", "PCM_S8")  # what 16 bits hold without rounding
_UNKNOWN_SIZE = 0x7FFFF000  # a size from here on says that a header was written before the length was known
_CANCELLATION_RATIO = 0.1  # of the energy that a mix of unrelated channels has: below it, they cancel each other


def read_recordings(files: Sequence[Path], sample_rate: int) -> list[np.ndarray]:
    """Return int16 [T] at `sample_rate` (Hz) of each file; several channels are averaged.

    Of channels in antiphase, whose average is (nearly) silent, the loudest is taken. These files, and those with
    samples above full scale, which are clipped, are counted in a warning.

    Raises:
        UserError: files are damaged or empty.
    """
    read = list(read_in_threads(lambda file: _read(file, sample_rate), files))
    for number, what in enumerate(
        ("channels in antiphase: the loudest is used", "samples above full scale: clipped"), 1
    ):
        if found := [file for file, one in zip(files, read, strict=True) if one[number]]:
            rank_zero_warn(f"{len(found)} of {len(files)} recordings have {what} (the first is {found[0]})")
    return [wave for wave, _, _ in read]


def _read(path: Path, sample_rate: int) -> tuple[np.ndarray, bool, bool]:
    """Return int16 [T], whether its channels cancel each other, and whether it was clipped."""
    import soundfile

    try:
        with soundfile.SoundFile(path) as opened:
            exact, rate = opened.subtype in _INT16, opened.samplerate
            declared = opened.frames * opened.channels * (2 if exact else 8)
            require_plausible(path, declared, declared)  # FLAC compresses silence without a limit
            values = opened.read(dtype="int16" if exact else "float64", always_2d=True)
        missing = _missing_bytes(path)
    except (soundfile.SoundFileError, OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} cannot be read as an audio file ({error}): repair or remove it") from error
    if missing or not len(values):
        found = f"ends {missing} bytes too early" if missing else "contains no samples"
        raise UserError(f"{path} {found}: repair or remove it")
    if not exact and not np.isfinite(values).all():
        raise UserError(f"{path} contains samples that are not finite: repair or remove it")
    values = values if exact else values * 32768
    wave, cancelled = _mix_channels(values)
    clipped = not exact and bool(np.abs(values).max() > 32768)
    whole = np.clip(wave.round(), -32768, 32767).astype(np.int16)
    return resample(whole, rate, sample_rate), cancelled, clipped


def _mix_channels(values: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return the mean of [T, channels], or the loudest channel where they cancel each other, and whether they do."""
    mix = values.mean(1)
    energies = np.square(values, dtype=np.float64).mean(0)
    cancelled = bool(np.square(mix).mean() < _CANCELLATION_RATIO * energies.mean() / values.shape[1])
    return (values[:, energies.argmax()].astype(np.float64) if cancelled else mix), cancelled


def _missing_bytes(path: Path) -> int:
    """How many bytes of sound the header of a .wav file declares beyond the end of the file."""
    with path.open("rb") as opened:
        head = opened.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return 0
        while len(chunk := opened.read(8)) == 8:
            size = int.from_bytes(chunk[4:], "little")
            if chunk[:4] == b"data":
                return max(0, size - (path.stat().st_size - opened.tell())) if size < _UNKNOWN_SIZE else 0
            opened.seek(size + size % 2, 1)
    return 0


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
