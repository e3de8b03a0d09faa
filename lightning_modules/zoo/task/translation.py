"""Translation: the target sentence of a source sentence."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from mlflow.exceptions import MlflowException
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection

from lightning_modules.compat.lightning import has_trainer
from lightning_modules.config.bounds import Count, NonNegative, bounded
from lightning_modules.config.errors import UserError, first_line, warn
from lightning_modules.data.class_folders import printable_name
from lightning_modules.data.in_memory import Batch
from lightning_modules.data.text_encoding import read_texts
from lightning_modules.task.batches import as_dict
from lightning_modules.task.metrics import select_metrics
from lightning_modules.task.supervised import Supervised
from lightning_modules.tracking.logger import BufferedMLflowLogger
from lightning_modules.zoo.data.sentence_pairs import PAD, SPECIAL, SentencePairs, pad
from lightning_modules.zoo.model.translation import EncoderDecoder
from lightning_modules.zoo.task.beam_search import beam_search
from lightning_modules.zoo.task.token_metrics import NATS, TOKENS, ratio, token_sums
from lightning_modules.zoo.task.translation_metrics import CORPUS_SCORES, OF_TOKENS, SUMS, TranslationMetrics

_BATCH_SIZE = 64


class Translation(Supervised):
    """Logits [B, T, V] of pairs int [B, 2, T] against ids [B, T]; the served model returns the logits.

    ``val/loss`` is nats per token without label smoothing. Translations of the validation are greedy, those of the test and
    of files the best of a beam. ``train/padding`` is the share of padding in what the network reads.

    Args:
        num_outputs: size of the target vocabulary.
        metrics: names for ``val`` and ``test``: bleu, chrf, sentence_accuracy, perplexity, accuracy.
        beam: beginnings that the search follows; 1 is greedy.
        length_penalty: alpha of Wu et al. 2016, eq. 14; 0: none.
    """

    model: EncoderDecoder

    @bounded
    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        num_outputs: int,
        metrics: Mapping[str, Sequence[str] | None] | None = None,
        beam: Count = 4,
        length_penalty: NonNegative = 0.6,
        **loop: Any,
    ) -> None:
        super().__init__(model, loss, **loop)
        if not isinstance(self.preprocess, SentencePairs):
            raise UserError("task=translation: the data have no pairs of sentences; try data=parallel_text")
        self.variable_dims = getattr(model, "variable_dims", ())
        self.num_outputs, self.beam, self.length_penalty = num_outputs, beam, length_penalty
        self._recorded: dict[str, str] = {}
        default = (*CORPUS_SCORES, *OF_TOKENS)
        self.metrics = select_metrics(metrics, {"val": default, "test": default})

    @property
    def pairs(self) -> SentencePairs:
        """The vocabularies of both languages."""
        assert isinstance(self.preprocess, SentencePairs)
        return self.preprocess

    def output_shape(self, x: Tensor, num_outputs: int) -> tuple[int, ...]:
        return (len(x), x.shape[2], num_outputs)

    def outputs_and_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if has_trainer(self) and self.trainer.training:
            used = (batch["x"] != PAD).sum((0, 2)).sum()
            cells = len(batch["x"]) * (batch["x"] != PAD).any(0).sum()
            how: Any = {"on_step": False, "on_epoch": True, "sync_dist": True}
            self.log("train/padding", 1 - used / cells, batch_size=int(cells), **how)
        return super().outputs_and_loss(batch)

    # --- translating -------------------------------------------------------------------------------------------
    def translate_ids(self, source: Tensor, beam: int) -> Tensor:
        """Return the target ids [B, T] of source ids [B, S]."""
        source = source[:, : int((source != PAD).any(0).sum())]
        return beam_search(self.model, source.long(), beam, self.length_penalty, self.pairs.banned)

    def translate(self, texts: Sequence[str], beam: int | None = None) -> list[str]:
        """Return the translation of each text, in evaluation mode; of texts longer than the model's length the beginning."""
        training, rows = self.training, self.pairs.source_ids(texts)
        source, found = pad(rows, self.model.length).to(self.device), []
        try:
            self.eval()
            for part in source.split(_BATCH_SIZE):
                found += [self.pairs.to_text(ids) for ids in self.translate_ids(part, beam or self.beam).cpu()]
        finally:
            self.train(training)
        return found

    def predict_files(self, files: Sequence[Path], out: TextIO, pictures: Path | None) -> int:
        """Write a CSV row for each line of text files: ``file``, ``sample``, ``text``, ``translation``; return their number.

        Warns of lines that are truncated, and of words that the vocabulary lacks. Raises UserError for an empty line.
        """
        if pictures is not None:
            raise UserError(f"pictures={pictures}: a translation draws nothing; remove it")
        table, count = csv.writer(out, lineterminator="\n"), 0
        table.writerow(["file", "sample", "text", "translation"])
        for file in files:
            lines = self._read_lines(file)
            for number, (text, translation) in enumerate(zip(lines, self.translate(lines), strict=True)):
                table.writerow([printable_name(str(file)), number, text, translation])
            count += len(lines)
        return count

    def _read_lines(self, file: Path) -> list[str]:
        if file.suffix.lower() != ".txt":
            raise UserError(f"{file}: a translation needs texts, a sentence a line (.txt)")
        lines = read_texts([file])[0].removesuffix("\n").replace("\r\n", "\n").split("\n")
        if empty := next((number for number, text in enumerate(lines, 1) if not text.strip()), None):
            raise UserError(f"{file}, line {empty}: the line is empty; expected a sentence")
        rows = self.pairs.source_ids(lines)
        long = [number for number, row in enumerate(rows, 1) if len(row) > self.model.length]
        if long:
            longest = f"the {self.model.length} tokens of the model"
            warn(f"{file}: {len(long)} lines are longer than {longest} and truncated; the first is line {long[0]}")
        if lacking := sum(int((row == self.pairs.unknown_source).sum()) for row in rows):
            warn(f"{file}: {lacking} words are unknown to the model")
        return lines

    # --- evaluation --------------------------------------------------------------------------------------------
    def build_metrics(self, stage: str) -> MetricCollection:
        return MetricCollection({"translations": TranslationMetrics(self.metrics[stage], self.pairs.to_text)})

    def metric_names(self) -> set[str]:
        for stage in ("val", "test"):
            self.build_metrics(stage)  # checks the names
        return {"val/loss", *(f"val/{name}" for name in self.metrics["val"])}

    def _buffer_predictions(self, stage: str, batch: Batch) -> None:
        """Keep the sums (`token_sums`) and the translation of each sample, [B, 4 + T], and the reference's UTF-8."""
        batch = as_dict(batch)
        characters = F.pad(self.pairs.target.token_characters, (SPECIAL, 0))
        sums = token_sums(self.forward(batch["x"]), batch["y"], characters)
        ids = self.translate_ids(batch["x"][:, 0], self.beam if stage == "test" else 1)
        kept = torch.cat([sums, ids.float()], 1)
        self.prediction_buffers[stage].add(kept, batch["reference"], batch.get("index"), self.data_rank)

    def evaluation_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Nats per token, whatever the loss that is trained."""
        return ratio(outputs[:, :SUMS], NATS, TOKENS)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._record_signatures("val")

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self._record_signatures("test")
        assert self.test_buffer is not None
        kept, _, outputs, index = self.test_buffer  # records of samples compare the numbers of tokens
        self.test_buffer = (kept[:, SUMS:] != PAD).sum(1).float(), kept[:, TOKENS], outputs, index

    def _record_signatures(self, stage: str) -> None:
        """Set sacrebleu's signatures as tags of the run."""
        metric: Any = self._metrics[stage]["translations"]
        for logger in self.loggers if self.trainer.is_global_zero and metric.signatures != self._recorded else ():
            if isinstance(logger, BufferedMLflowLogger):
                try:
                    for name, signature in metric.signatures.items():
                        logger.experiment.set_tag(logger.run_id, f"sacrebleu.{name}", signature)
                    self._recorded = dict(metric.signatures)
                except (
                    MlflowException
                ) as error:  # training goes on without the server; tried again at the next evaluation
                    warn(f"sacrebleu's signatures could not be recorded yet: {first_line(error)}")
