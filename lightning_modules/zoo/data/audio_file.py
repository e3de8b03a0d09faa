"""Reader for audio files: mixed to mono, resampled, and padded or cut to one length."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pytorch_lightning.utilities import rank_zero_warn

from lightning_modules.config.errors import UserError
from lightning_modules.data.class_folders import read_in_threads
from lightning_modules.data.files import require_plausible

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff")
_INT16 = ("PCM_16", "PCM_U8", "PCM_S8")  # representable in 16 bits without rounding
_UNKNOWN_SIZE = 0x7FFFF000  # size fields from here on mean that the length was unknown when the header was written
_CANCELLATION_RATIO = 0.1  # of the energy of a mix of uncorrelated channels: below it, they cancel out


def read_recordings(files: Sequence[Path], sample_rate: int) -> list[np.ndarray]:
    """Return each file as int16 [T] at `sample_rate` (Hz); channels are averaged.

    If the channels cancel out (antiphase), the loudest is used. A warning counts these files, and those that are
    clipped because samples exceed full scale.

    Raises UserError if files are damaged or empty.
    """
    read = list(read_in_threads(lambda file: _read(file, sample_rate), files))
    for number, what in enumerate(
        ("channels in antiphase: the loudest is used", "samples above full scale: clipped"), 1
    ):
        if found := [file for file, one in zip(files, read, strict=True) if one[number]]:
            rank_zero_warn(f"{len(found)} of {len(files)} recordings have {what} (the first is {found[0]})")
    return [wave for wave, _, _ in read]


def _read(path: Path, sample_rate: int) -> tuple[np.ndarray, bool, bool]:
    """Return int16 [T], whether the channels cancel out, and whether samples were clipped."""
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
        found = f"is truncated by {missing} bytes" if missing else "contains no samples"
        raise UserError(f"{path} {found}: repair or remove it")
    if not exact and not np.isfinite(values).all():
        raise UserError(f"{path} contains non-finite samples: repair or remove it")
    values = values if exact else values * 32768
    wave, cancelled = _mix_channels(values)
    clipped = not exact and bool(np.abs(values).max() > 32768)
    whole = np.clip(wave.round(), -32768, 32767).astype(np.int16)
    return resample(whole, rate, sample_rate), cancelled, clipped


def _mix_channels(values: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return the mean of [T, channels], or the loudest channel if they cancel out, and whether they do."""
    mix = values.mean(1)
    energies = np.square(values, dtype=np.float64).mean(0)
    cancelled = bool(np.square(mix).mean() < _CANCELLATION_RATIO * energies.mean() / values.shape[1])
    return (values[:, energies.argmax()].astype(np.float64) if cancelled else mix), cancelled


def _missing_bytes(path: Path) -> int:
    """Return how many bytes of audio the header of a .wav file declares beyond the end of the file."""
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
    """Return int16 [length]: `wave` zero-padded or cut at both ends."""
    spare = length - len(wave)
    if spare < 0:
        start = -spare // 2
        return wave[start : start + length]
    return np.pad(wave, (spare // 2, spare - spare // 2))
