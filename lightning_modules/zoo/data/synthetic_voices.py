"""Synthetic speech by espeak-ng: words in voices that differ in accent, timbre, pitch and speed.

The optional package ``espeakng-loader`` contains the library and its data (GPL-3); it is called through ctypes.
"""

import ctypes
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from lightning_modules.config.errors import UserError
from lightning_modules.config.project import PACKAGE
from lightning_modules.data.files import read_npz, write_atomic
from lightning_modules.zoo.data.audio_file import resample

ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")
EXCLUDED_VARIANTS = {
    "whisper",
    "whisperf",
    "croak",
    "Demonic",
    "AnxiousAndy",
    "UniRobot",
    "anikaRobot",
    "fast",
    "announcer",
}
SYNCHRONOUS, RATE, PITCH, PITCH_RANGE, UTF8 = 2, 1, 3, 4, 1  # of espeak-ng's speak_lib.h
PEAK = 0.3  # of full scale: about the median of human recordings
SILENCE_LEVEL = 0.01  # of a word's peak: leading and trailing samples below are trimmed


def synthesize_voices(voices: int, words: Sequence[str], sample_rate: int, cache: Path) -> list[list[np.ndarray]]:
    """Return all `words`, int16 [T] at `sample_rate`, for each of `voices`; voice k is always the same.

    Results are cached in the folder `cache` by the version of the package.

    Raises UserError if the package is not installed, or its library does not work on this system.
    """
    said = f"{_version()} {list(words)} {sample_rate} {voices} {ACCENTS} {sorted(EXCLUDED_VARIANTS)} {PEAK} {SILENCE_LEVEL}"
    file = cache / f"voices-{hashlib.sha256(said.encode()).hexdigest()[:16]}.npz"
    try:
        content = file.read_bytes()
        flat, lengths = _unpack(file, content)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, UserError):
        content = _run_subprocess(voices, words, sample_rate)
        flat, lengths = _unpack(file, content)
        write_atomic(file, content)
    waves = np.split(flat, np.cumsum(lengths)[:-1])
    return [list(waves[i : i + len(words)]) for i in range(0, len(waves), len(words))]


def _run_subprocess(voices: int, words: Sequence[str], sample_rate: int) -> bytes:
    """Return the voices' npz file. espeak-ng keeps state between words, so only a new process is reproducible."""
    order = json.dumps([voices, list(words), sample_rate])
    done = subprocess.run([sys.executable, "-m", __name__, order], cwd=PACKAGE.parent, capture_output=True, check=False)
    if done.returncode or not done.stdout:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise UserError(f"data.synthetic_voices: espeak-ng failed: {reason[-1] if reason else done.returncode}")
    return done.stdout


def synthesize_all(voices: int, words: Sequence[str], sample_rate: int) -> bytes:
    """Synthesize everything in this process; return an npz file of ``flat`` (int16) and the ``lengths`` of its parts."""
    spoken = [wave for voice in EspeakSynthesizer().draw(voices) for wave in voice.say(words, sample_rate)]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, flat=np.concatenate(spoken), lengths=np.array([len(wave) for wave in spoken]))
    return buffer.getvalue()


def _unpack(file: Path, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    flat, lengths = read_npz(file, ("flat", "lengths"), io.BytesIO(content))
    return flat, lengths


def _version() -> str:
    if find_spec("espeakng_loader") is None:
        raise UserError("data.synthetic_voices needs the package espeakng-loader: pip install -e '.[voices]'")
    return version("espeakng-loader")


class EspeakSynthesizer:
    """espeak-ng in this process; its state is global, so the voice is set again for each word."""

    def __init__(self) -> None:
        import espeakng_loader

        try:
            self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        except OSError as error:
            raise UserError(f"espeak-ng, from the package espeakng-loader, cannot be loaded: {error}") from error
        self.variants = _variants(Path(espeakng_loader.get_data_path()))
        self.chunks: list[np.ndarray] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self.callback = kind(self._take)  # a reference, so that it is not garbage-collected
        data = str(espeakng_loader.get_data_path()).encode()
        self.rate = int(self.library.espeak_Initialize(SYNCHRONOUS, 0, data, 0))
        if self.rate <= 0:
            raise UserError(f"espeak-ng cannot find its data in {data.decode()}")
        self.library.espeak_SetSynthCallback(self.callback)

    def _take(self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, _: object) -> int:
        if count > 0 and samples:
            self.chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def draw(self, count: int) -> list["Voice"]:
        """Return the first `count` of a fixed sequence of distinct voices."""
        draws = np.random.RandomState(0)  # stable across NumPy versions
        voices = []
        for k in range(count):
            if k % len(self.variants) == 0:
                order = draws.permutation(len(self.variants))
            variant = self.variants[order[k % len(self.variants)]]
            accent = ACCENTS[draws.randint(len(ACCENTS))]
            voices.append(Voice(self, f"{accent}+{variant}", draws.randint(110, 200), draws.randint(20, 80)))
        return voices

    def say(self, word: str, voice: str, words_per_minute: int, pitch: int) -> np.ndarray:
        """Return one word as int16 [T] at `rate`; `pitch` is 0 to 99."""
        if self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(f"espeak-ng has no voice {voice}")
        for parameter, value in ((RATE, words_per_minute), (PITCH, pitch), (PITCH_RANGE, 50)):
            self.library.espeak_SetParameter(parameter, value, 0)
        self.chunks.clear()
        text = word.encode()
        self.library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 0, 0, UTF8, None, None)
        self.library.espeak_Synchronize()
        return np.concatenate(self.chunks) if self.chunks else np.zeros(1, np.int16)


def _variants(data: Path) -> list[str]:
    return sorted(file.name for file in (data / "voices" / "!v").iterdir() if file.name not in EXCLUDED_VARIANTS)


class Voice:
    """One speaker: an accent with a variant of it, a speed in words per minute, and a pitch."""

    def __init__(self, synthesiser: EspeakSynthesizer, name: str, speed: int, pitch: int) -> None:
        self.synthesiser, self.name, self.speed, self.pitch = synthesiser, name, int(speed), int(pitch)

    def say(self, words: Sequence[str], sample_rate: int) -> list[np.ndarray]:
        """Return each word as int16 [T] at `sample_rate`, trimmed, with equal peak level."""
        spoken = (self.synthesiser.say(word, self.name, self.speed, self.pitch) for word in words)
        return [_trim(resample(wave, self.synthesiser.rate, sample_rate)) for wave in spoken]


def _trim(wave: np.ndarray) -> np.ndarray:
    level = np.abs(wave.astype(np.float64))
    peak = max(1.0, level.max(initial=0))
    loud = np.flatnonzero(level > SILENCE_LEVEL * peak)
    kept = wave[loud[0] : loud[-1] + 1] if len(loud) else wave[:1]
    return (kept * (PEAK * 32767 / peak)).round().astype(np.int16)


if __name__ == "__main__":
    sys.stdout.buffer.write(synthesize_all(*json.loads(sys.argv[1])))
