"""Recordings of several lengths with their transcripts: padding, features, symbols, and the base datamodule."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor, nn

from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict
from lightning_modules.data.files import require_memory
from lightning_modules.data.fingerprint import tensor_digest
from lightning_modules.data.in_memory import InMemoryData, RawDataset
from lightning_modules.data.preprocess import SampleSource, Standardize
from lightning_modules.data.split import split
from lightning_modules.zoo.data.log_mel import LogMel, MelSpectrum, WindowLength, as_float_audio, check_hop

PADDING = -32768  # behind a recording of int16, whose samples are at least -32767; behind features it is NaN
BLANK = 0  # of CTC, and behind a transcript


@dataclass(frozen=True)
class Utterance:
    """A recording, int16 [T], and its transcript; `where` names it in messages, as in ``a.wav (transcripts.csv:3)``."""

    wave: np.ndarray
    text: str
    where: str


def pad_waves(waves: Sequence[Tensor]) -> Tensor:
    """Return recordings, int16 or features [1, n_mels, F], as one batch of the length of the longest."""
    longest = max(wave.shape[-1] for wave in waves)
    fill = torch.nan if waves[0].is_floating_point() else PADDING
    return torch.stack([nn.functional.pad(wave, (0, longest - wave.shape[-1]), value=fill) for wave in waves])


def lengths_of(x: Tensor) -> Tensor:
    """Return the lengths int64 [B] of padded recordings int16 [B, T], or of features [B, 1, n_mels, F] in frames."""
    return (~x[:, 0, 0].isnan()).sum(1) if x.is_floating_point() else (x != PADDING).sum(1)


def trim(x: Tensor) -> Tensor:
    """Return padded recordings or features cut to the longest of the batch."""
    return x[..., : int(lengths_of(x).max())]


class PaddedMelSpectrum(MelSpectrum):
    """Log-mel features of padded recordings, NaN behind their last frame. Windows see silence outside of a recording."""

    def forward(self, x: Tensor) -> Tensor:
        """int16 [B, T] -> [B, 1, n_mels, T // hop + 1]; a recording of length n has n // hop + 1 frames."""
        wave = as_float_audio(x)  # padding is -1, exactly; ONNX Runtime compares no int16
        inside = wave > PADDING / 32768
        features = super().forward(wave.masked_fill(~inside, 0))
        frames = inside.sum(1) // self.hop + 1
        beyond = torch.arange(features.shape[-1], device=x.device) >= frames[:, None]
        return features.masked_fill(beyond[:, None, None], torch.nan)

    def extend(self, wave: Tensor) -> Tensor:
        return nn.functional.pad(wave, (self.n_fft // 2, self.n_fft // 2))


class SpeechFeatures(LogMel):
    """Padded recordings to normalized log-mel features and a last row that is 1 in frames of the recording, else 0.

    Args:
        symbols: the characters of the transcripts; number i + 1 stands for ``symbols[i]``, 0 for CTC's blank.
        others: as in `LogMel`.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        sample_rate: int,
        n_fft: int,
        hop: int,
        n_mels: int,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        fitted: bool = False,
    ) -> None:
        super().__init__(sample_rate, n_fft, hop, n_mels, mean, std, fitted)
        self.symbols = list(symbols)
        self.spectrum = PaddedMelSpectrum(sample_rate, n_fft, hop, n_mels)

    @property
    def sample_rate(self) -> int:
        """Of the recordings, Hz."""
        return int(self.spectrum.settings[0])

    def fit(self, store: SampleSource, indices: Tensor) -> "SpeechFeatures":
        """Fit mean and std of each band on the frames of ``store[indices]``."""
        self.normalise = Standardize.fit(_Frames(store, self.spectrum), indices)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """int16 [B, T], or features [B, 1, n_mels, F] with NaN as padding -> float32 [B, n_mels + 1, F]."""
        features = (x if x.ndim == 4 else self.spectrum(x))[:, 0]
        inside = ~features[:, :1].isnan()
        normal = self.normalise(features).masked_fill(~inside, 0)
        return torch.cat([normal, inside.to(normal.dtype)], 1)

    def to_text(self, ids: Sequence[int]) -> str:
        """Return the text of numbers of symbols; blanks are left out."""
        return "".join(self.symbols[i - 1] for i in ids if i != BLANK)

    def recipe(self) -> PlainDict:
        """Return the plain values from which ``hydra.utils.instantiate`` rebuilds this module."""
        target = f"{SpeechFeatures.__module__}.{SpeechFeatures.__qualname__}"
        return {**super().recipe(), "_target_": target, "symbols": self.symbols}


class _Frames:
    """All frames of recordings, as samples [n_mels]."""

    dtype = torch.float32

    def __init__(self, store: SampleSource, spectrum: MelSpectrum) -> None:
        self.store, self.spectrum = store, spectrum
        self.shape = torch.Size((len(store), spectrum.filters.shape[1]))

    def __len__(self) -> int:
        return len(self.store)

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        features = self.spectrum(trim(self.store.index_select(0, index)))[:, 0].transpose(1, 2)
        return features[~features[..., 0].isnan()]


class SpeechData(InMemoryData):
    """int16 [T], padded by -32768; y, int64 [L], the symbols of the transcript, padded by 0. A batch is cut to its longest.

    Subclasses implement `load` with the help of `assemble`.

    Args:
        sample_rate: in Hz.
        n_fft: window length in samples; hop: hop length; n_mels: number of mel bands.
        symbols: the characters that may occur; None: those of all transcripts.
        others: as in `InMemoryData`; without folds and classes.
    """

    domain = "audio"

    @bounded
    def __init__(
        self,
        *,
        sample_rate: Annotated[int, Ge(1000)] = 8000,
        n_fft: WindowLength = 256,
        hop: Count = 80,
        n_mels: Count = 40,
        symbols: str | None = None,
        **settings: Any,
    ) -> None:
        check_hop(hop, n_fft)
        self.sample_rate, self.n_fft, self.hop, self.n_mels = sample_rate, n_fft, hop, n_mels
        self.allowed = symbols
        super().__init__(**settings)
        if self.plan.folds or self.plan.per_class:
            raise UserError("data.folds and data.per_class: transcripts are no classes; use data.fraction")

    def assemble(self, parts: Mapping[str, Sequence[Utterance]], source: Path) -> RawDataset:
        """Return the samples of ``train``, ``val`` and ``test``; of the latter two those that are given.

        Raises UserError for a character that is not in `symbols`, and if memory is short.
        """
        pool, test = [*parts["train"], *parts.get("val", ())], list(parts.get("test", ()))
        every = [*pool, *test]
        self.symbols = sorted(set(self.allowed or "".join(one.text for one in every)))
        for one in every:
            if unknown := set(one.text) - set(self.symbols):
                raise UserError(f"{one.where}: the transcript has {min(unknown)!r}, which data.symbols lacks")
        longest = max(len(one.wave) for one in every)
        require_memory(source, 2 * len(every) * longest)
        self.where = {"pool": [one.where for one in pool], "test": [one.where for one in test]}
        x = pad_waves([torch.from_numpy(one.wave).clamp(min=PADDING + 1) for one in every])
        y = nn.utils.rnn.pad_sequence([self._encode(one.text) for one in every], batch_first=True)
        content = f"{tensor_digest(x, y)} {json.dumps(self.symbols)} {len(pool)}"
        return RawDataset(
            x[: len(pool)],
            y[: len(pool)],
            test=(x[len(pool) :], y[len(pool) :]) if test else None,
            val=torch.arange(len(parts["train"]), len(pool)) if parts.get("val") else None,
            content=hashlib.sha256(content.encode()).hexdigest(),
        )

    def _encode(self, text: str) -> Tensor:
        return torch.tensor([self.symbols.index(character) + 1 for character in text])

    def require_frames(self, output_frames: Callable[[int], int]) -> None:
        """Raise UserError if CTC cannot align a transcript, for want of frames behind a network (`output_frames`).

        A symbol needs a frame, and a repeated one a blank before it.
        """
        sets = {"pool": (self.arrays.x, self.arrays.y), **({"test": self.arrays.test} if self.arrays.test else {})}
        short = []
        for name, (x, y) in sets.items():
            lengths = torch.cat([lengths_of(x.index_select(0, index)) for index in torch.arange(len(y)).split(256)])
            needed = (y != BLANK).sum(1) + ((y[:, 1:] == y[:, :-1]) & (y[:, 1:] != BLANK)).sum(1)
            for where, length, least in zip(self.where[name], lengths.tolist(), needed.tolist(), strict=True):
                if (frames := output_frames(length // self.hop + 1)) < least:
                    short.append(f"{where} has {frames} frames for a transcript that needs {least}")
        if short:
            more = f", and {len(short) - 1} more" if len(short) > 1 else ""
            raise UserError(f"{short[0]}{more}: correct the transcript, remove it, or lower data.hop or model.stride")

    def build_split(self, arrays: RawDataset) -> dict[str, Tensor]:
        """Return the recordings of each part, at random where the files do not name the parts."""
        places = torch.arange(len(arrays.y), dtype=torch.float32)  # no classes
        return split(places, self.plan, None if arrays.test is None else len(arrays.test[1]), arrays.val)

    def build_preprocess(self, x: SampleSource, train: Tensor) -> SpeechFeatures:
        """Log-mel features, normalized on the frames of the training part; it holds the symbols."""
        return SpeechFeatures(self.symbols, self.sample_rate, self.n_fft, self.hop, self.n_mels).fit(x, train)

    def _describe_classes(self, arrays: RawDataset, train: Tensor) -> None:
        self.num_classes, self.class_names, self.class_counts = None, None, None
        self.num_targets = len(self.symbols) + 1  # outputs of a model, with the blank

    def model_settings(self) -> dict[str, object]:
        """Return the arguments that a network takes from the data."""
        return {"n_mels": self.n_mels}
