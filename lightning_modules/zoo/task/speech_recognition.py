"""Speech recognition: the transcript of a recording, with CTC."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.functional.text import char_error_rate, word_error_rate
from torchmetrics.text import CharErrorRate, WordErrorRate

from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.data.class_folders import printable_name
from lightning_modules.data.in_memory import Batch
from lightning_modules.task.batches import as_dict
from lightning_modules.task.metrics import NO_SYNC, select_metrics
from lightning_modules.task.supervised import Supervised
from lightning_modules.zoo.data.audio_file import SUFFIXES, read_recordings
from lightning_modules.zoo.data.speech import PADDING, SpeechData, SpeechFeatures, pad_waves, trim
from lightning_modules.zoo.task.ctc import ctc_losses, decode, pad_labels

MEASURES = {"cer": CharErrorRate, "wer": WordErrorRate}


class TranscriptMetric(Metric):
    """A metric of texts, of samples float32 [B, 1 + F]: loss and symbols found, against symbols int64 [B, L]."""

    full_state_update = False

    def __init__(self, name: str, features: SpeechFeatures) -> None:
        super().__init__(**NO_SYNC)
        if name not in MEASURES:
            raise UserError(f"task.metrics: unknown metric '{name}'; {suggest(str(name), MEASURES)}")
        self.texts, self.rate = features.to_text, MEASURES[name](**NO_SYNC)

    def update(self, found: Tensor, target: Tensor) -> None:
        """Add samples."""
        pairs = (list(map(self.texts, ids.long().tolist())) for ids in (found[:, 1:], target))
        self.rate.update(*pairs)

    def compute(self) -> Tensor:
        return self.rate.compute()

    def reset(self) -> None:
        super().reset()
        self.rate.reset()


@dataclass(frozen=True)
class Transcript:
    """What a recording says and what was recognized; `sample` is its index in the data."""

    sample: int
    reference: str
    hypothesis: str

    @property
    def cer(self) -> float:
        """Edits per character of the reference."""
        return float(char_error_rate(self.hypothesis, self.reference))

    @property
    def wer(self) -> float:
        """Edits per word of the reference."""
        return float(word_error_rate(self.hypothesis, self.reference))


class SpeechRecognition(Supervised):
    """Log-probabilities [B, F, V] of CTC, trained on transcripts; the served model returns them.

    ``val/loss`` is nats per symbol, the mean over recordings. Predictions of the test are the error rates of each.

    Args:
        num_outputs: symbols with the blank.
        metrics: names for ``val`` and ``test``: cer, wer (edits per character and per word of all transcripts together).
        beam_width: of a prefix beam search in the test and in predictions; None: the likeliest path, as in validation.
    """

    variable_dims = (1,)  # an exported model takes recordings of any length
    file_suffixes = SUFFIXES  # of `predict_files`

    @bounded
    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        num_outputs: int,
        metrics: Mapping[str, Sequence[str] | None] | None = None,
        beam_width: Count | None = None,
        **loop: Any,
    ) -> None:
        super().__init__(model, loss, **loop)
        if not isinstance(self.preprocess, SpeechFeatures):
            raise UserError("task=speech_recognition: the data have no transcripts; try data=digit_strings")
        if not hasattr(model, "output_frames"):
            name = type(model).__name__
            raise UserError(f"task=speech_recognition: {name} gives no symbols of frames; try model=speech_gru")
        self.output_frames: Callable[[int], int] = model.output_frames  # type: ignore[assignment]
        self.num_outputs, self.beam_width = num_outputs, beam_width
        self.metrics = select_metrics(metrics, dict.fromkeys(("val", "test"), tuple(MEASURES)))
        self.transcripts: list[Transcript] = []  # of the last test

    @property
    def features(self) -> SpeechFeatures:
        """The preprocessing, which holds the symbols."""
        assert isinstance(self.preprocess, SpeechFeatures)
        return self.preprocess

    def setup(self, stage: str) -> None:
        """Raise UserError if a recording of the data has too few frames for its transcript."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, SpeechData):
            data.require_frames(self.output_frames)

    def output_shape(self, x: Tensor, num_outputs: int) -> tuple[int, ...]:
        return (len(x), self._frames_of(x), num_outputs)

    def output_name(self, i: int) -> str:
        return list(MEASURES)[i]

    def build_metrics(self, stage: str) -> MetricCollection:
        named = {name: TranscriptMetric(name, self.features) for name in self.metrics[stage]}
        return MetricCollection(named, compute_groups=False)  # type: ignore[arg-type]

    def outputs_and_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return super().outputs_and_loss({**batch, "x": trim(batch["x"])})

    def transcribe(self, x: Tensor, beam_width: int | None = None) -> list[str]:
        """Return the texts of padded recordings int16 [B, T], in evaluation mode."""
        training = self.training
        try:
            with torch.no_grad():
                outputs = self.eval().forward(trim(x).to(self.device))
        finally:
            self.train(training)
        return [self.features.to_text(labels) for labels in decode(outputs, beam_width)]

    def predict_files(self, files: Sequence[Path], out: TextIO, pictures: Path | None) -> int:
        """Write a row (file, text) for each recording; return their number. Raises UserError for damaged files."""
        if pictures is not None:
            raise UserError(f"pictures={pictures}: there is nothing to draw; remove it")
        table = csv.writer(out, lineterminator="\n")
        table.writerow(["file", "text"])
        for file, wave in zip(files, read_recordings(files, self.features.sample_rate), strict=True):
            [text] = self.transcribe(pad_waves([torch.from_numpy(wave).clamp(min=PADDING + 1)]), self.beam_width)
            table.writerow([printable_name(str(file)), text])
        return len(files)

    def _frames_of(self, x: Tensor) -> int:
        """Frames of the output for padded recordings or features."""
        return self.output_frames(x.shape[-1] if x.ndim == 4 else x.shape[1] // self.features.spectrum.hop + 1)

    def _buffer_predictions(self, stage: str, batch: Batch) -> None:
        """Keep the loss and the symbols found in each recording, [B, 1 + F]."""
        batch = as_dict(batch)
        outputs, y = self.forward(trim(batch["x"])), batch["y"]
        labels = decode(outputs, self.beam_width if stage == "test" else None)
        found = pad_labels(labels, self._frames_of(batch["x"])).to(y.device)
        kept = torch.cat([ctc_losses(outputs, y)[:, None], found], 1)
        self.prediction_buffers[stage].add(kept, y, batch.get("index"), self.data_rank)

    def evaluation_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return outputs[:, 0].double().mean().float()

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        assert self.test_buffer is not None
        found, y, outputs, index = self.test_buffer
        texts = (map(self.features.to_text, ids.long().tolist()) for ids in (y, found[:, 1:]))
        self.transcripts = [Transcript(*one) for one in zip(index.tolist(), *texts, strict=True)]
        rates = torch.tensor([[one.cer, one.wer] for one in self.transcripts])
        self.test_buffer = rates, torch.zeros_like(rates), outputs, index
