"""Strings of spoken digits, joined from single recordings with pauses and noise."""

from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from lightning_modules.config.bounds import Count, NonNegative, Seed, bounded
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.data.files import data_root
from lightning_modules.data.in_memory import RawDataset
from lightning_modules.zoo.data.audio_file import read_recordings
from lightning_modules.zoo.data.speech import SpeechData, Utterance
from lightning_modules.zoo.data.spoken_digits import TEST_RECORDINGS, WORDS, list_recordings

Clips = dict[tuple[str, int], list[np.ndarray]]  # of each speaker and digit
PARTS = ("train", "val", "test")


class DigitStrings(SpeechData):
    """Strings such as "three one four" of one speaker each, from the recordings of the Free Spoken Digit Dataset.

    The test part is a speaker who is in no other part. Of the other speakers, recordings 0 to 4 of each digit are in the
    validation part only, the others in the training part only. Between the digits, before and after them are pauses;
    white noise covers the whole string. It is a function of `generator_seed`.

    Args:
        root: contains ``fsdd/recordings``; default the environment's TOUCHSTONE_DATA, else ``data/`` of the project.
        held_out: the speaker of the test part.
        num_train, num_val, num_test: strings of each part.
        min_digits, max_digits: in a string.
        min_pause, max_pause: seconds.
        min_snr_db, max_snr_db: signal-to-noise ratio over the whole string.
    """

    name = "digit_strings"

    @bounded
    def __init__(
        self,
        *,
        root: str | Path | None = None,
        held_out: str = "theo",
        num_train: Count = 1000,
        num_val: Count = 150,
        num_test: Count = 200,
        min_digits: Annotated[int, Ge(1)] = 2,
        max_digits: Annotated[int, Ge(1)] = 6,
        min_pause: NonNegative = 0.05,
        max_pause: NonNegative = 0.3,
        min_snr_db: float = 10.0,
        max_snr_db: float = 30.0,
        generator_seed: Seed = 0,
        **settings: Any,
    ) -> None:
        self.root, self.held_out = data_root(root), held_out
        self.counts = dict(zip(PARTS, (num_train, num_val, num_test), strict=True))
        self.digits, self.pause, self.snr_db = (
            (min_digits, max_digits),
            (min_pause, max_pause),
            (min_snr_db, max_snr_db),
        )
        for key, (low, high) in {"digits": self.digits, "pause": self.pause, "snr_db": self.snr_db}.items():
            if low > high:
                raise UserError(f"data.min_{key}={low} is more than data.max_{key}={high}")
        self.generator_seed = generator_seed
        super().__init__(**settings)

    def load(self) -> RawDataset:
        """Read the digits and join them.

        Raises UserError if files are missing or damaged, there is no speaker `held_out`, or a part lacks a digit.
        """
        clips = self._read_clips()
        parts = {}
        for number, (part, count) in enumerate(self.counts.items()):
            random = np.random.RandomState([self.generator_seed, number])
            parts[part] = [self._join(clips[part], random, f"{self.name} {part} {i}") for i in range(count)]
        return self.assemble(parts, self.root / "fsdd")

    def _read_clips(self) -> dict[str, Clips]:
        files, digits, speakers, indices = list_recordings(self.root, self.name)
        if self.held_out not in speakers or len(set(speakers)) == 1:
            raise UserError(f"data.held_out={self.held_out}: {suggest(self.held_out, sorted(set(speakers)))}")
        found: dict[str, Clips] = {part: defaultdict(list) for part in PARTS}
        waves = read_recordings(files, self.sample_rate)
        for wave, digit, speaker, index in zip(waves, digits, speakers, indices, strict=True):
            part = "val" if index < TEST_RECORDINGS else "train"
            found["test" if speaker == self.held_out else part][speaker, digit].append(wave)
        for part, clips in found.items():
            present = {speaker for speaker, _ in clips}
            lacking = [key for key in ((s, d) for s in sorted(present) for d in range(10)) if key not in clips]
            if not clips or lacking:
                missing = f"digit {lacking[0][1]} by {lacking[0][0]}" if lacking else "any digit"
                raise UserError(f"{files[0].parent}: the {part} part has no recording of {missing}")
        return found

    def _join(self, clips: Clips, random: np.random.RandomState, where: str) -> Utterance:
        speakers = sorted({speaker for speaker, _ in clips})
        speaker = speakers[random.randint(len(speakers))]
        spoken = random.randint(10, size=random.randint(self.digits[0], self.digits[1] + 1)).tolist()
        pieces = [self._silence(random)]
        for digit in spoken:
            recordings = clips[speaker, digit]
            pieces += [recordings[random.randint(len(recordings))].astype(np.float64), self._silence(random)]
        wave = np.concatenate(pieces)
        noise = random.standard_normal(len(wave)) * np.sqrt(np.square(wave).mean())
        wave += noise / 10 ** (random.uniform(*self.snr_db) / 20)
        whole = np.clip(wave.round(), -32767, 32767).astype(np.int16)
        return Utterance(whole, " ".join(WORDS[digit] for digit in spoken), where)

    def _silence(self, random: np.random.RandomState) -> np.ndarray:
        return np.zeros(round(random.uniform(*self.pause) * self.sample_rate))
