"""Free Spoken Digit Dataset: ten digits by six speakers (Jackson et al. 2018, zenodo.1342401)."""

import re
from pathlib import Path
from typing import Any

import torch

from lightning_modules.config.bounds import Whole, bounded
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.data.files import data_root
from lightning_modules.data.in_memory import RawDataset
from lightning_modules.zoo.data.audio import AudioData
from lightning_modules.zoo.data.audio_file import read_recordings
from lightning_modules.zoo.data.synthetic_voices import synthesize_voices

FILE_NAME = re.compile(r"(\d)_([^_]+)_(\d+)\.wav")
TEST_RECORDINGS = 5  # recordings 0 to 4 of each speaker and digit
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class SpokenDigits(AudioData):
    """int16 [8000] at 8 kHz, 50 recordings of each digit by each of six speakers; the classes are the digits.

    The official test part consists of recordings 0 to 4 of each (300 of 3000), by the same speakers as the training
    part; `held_out` tests on an unseen speaker. `speaker` and `test_speaker` (int64) index `speaker_names`.

    Args:
        root: contains ``fsdd/recordings/{digit}_{speaker}_{index}.wav``; default the environment's TOUCHSTONE_DATA, else
            ``data/`` of the project.
        held_out: a speaker all of whose recordings form the test part.
        synthetic_voices: number of espeak-ng voices that add one recording of each digit to the training part. They
            take no part in the split (`fraction` and `per_class` count human recordings). Their speaker is -1.
    """

    name = "spoken_digits"

    @bounded
    def __init__(
        self,
        *,
        root: str | Path | None = None,
        held_out: str | None = None,
        synthetic_voices: Whole = 0,
        **settings: Any,
    ) -> None:
        self.root, self.held_out, self.synthetic_voices = data_root(root), held_out, synthetic_voices
        super().__init__(**settings)

    def load(self) -> RawDataset:
        """Find and read the files.

        Raises UserError if the files are missing or damaged, or there is no speaker `held_out`.
        """
        files, digits, speakers, indices = list_recordings(self.root, "spoken_digits")
        self.cut = 0
        x = self.samples(read_recordings(files, self.sample_rate))
        self.speaker_names = sorted(set(speakers))
        speaker = torch.tensor([self.speaker_names.index(name) for name in speakers])
        if self.held_out is None:
            tested = torch.tensor(indices) < TEST_RECORDINGS
        elif self.held_out in self.speaker_names:
            tested = speaker == self.speaker_names.index(self.held_out)
        else:
            raise UserError(f"data.held_out={self.held_out}: {suggest(str(self.held_out), self.speaker_names)}")
        if tested.all() or not tested.any():
            raise UserError(f"{files[0].parent}: expected recordings 0 to 4 (the test part) and further ones")
        y = torch.tensor(digits)
        self.speaker, self.test_speaker = speaker[~tested], speaker[tested]
        return RawDataset(x[~tested], y[~tested], test=(x[tested], y[tested]), class_names=list(WORDS))

    def extra_training_samples(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the digits of the synthetic voices; their `speaker` is -1."""
        if not self.synthetic_voices:
            return None
        spoken = synthesize_voices(self.synthetic_voices, WORDS, self.sample_rate, self.cache_dir)
        y = torch.arange(len(WORDS)).repeat(len(spoken))
        self.speaker = torch.cat([self.speaker, torch.full_like(y, -1)])
        return self.samples([wave for voice in spoken for wave in voice]), y


def list_recordings(root: Path, data: str) -> tuple[list[Path], list[int], list[str], list[int]]:
    """Return the files sorted by name, with digit, speaker and index of each. Raises UserError if `data` has none there."""
    folder = root / "fsdd" / "recordings"
    found = [(path, match) for path in sorted(folder.glob("*.wav")) if (match := FILE_NAME.fullmatch(path.name))]
    if not found:
        raise UserError(
            f"data={data}: no {{digit}}_{{speaker}}_{{index}}.wav in {folder}. Get the Free Spoken Digit Dataset "
            f"(CC BY-SA 4.0, 30 MB):\n"
            f"  git clone --depth 1 https://github.com/Jakobovski/free-spoken-digit-dataset {folder.parent}\n"
            "data.root or TOUCHSTONE_DATA sets another folder"
        )
    files, parts = [path for path, _ in found], [match.groups() for _, match in found]
    return files, [int(d) for d, _, _ in parts], [s for _, s, _ in parts], [int(i) for _, _, i in parts]
