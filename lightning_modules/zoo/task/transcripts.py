"""Transcripts of a run: a sample of them after each validation, and those of the test."""

from pathlib import Path

import pandas as pd
import pytorch_lightning as pl

from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.tracking.logger import BufferedMLflowLogger
from lightning_modules.zoo.data.speech import SpeechData
from lightning_modules.zoo.task.sample_texts import add_rows
from lightning_modules.zoo.task.speech_recognition import SpeechRecognition


class Transcripts(pl.Callback):
    """Writes ``samples/transcripts.json``, with `count` recordings of each validation, and ``predictions/transcripts.csv``.

    The latter has a row for each recording of the test, in the order of the data: what it says, what was recognized, and
    the error rates.
    """

    @bounded
    def __init__(self, count: Count = 8) -> None:
        self.count = count

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not isinstance(pl_module, SpeechRecognition):
            raise UserError(f"callbacks.transcripts: {type(pl_module).__name__} recognizes no speech; remove it")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not (isinstance(pl_module, SpeechRecognition) and isinstance(data, SpeechData)):
            return
        if trainer.sanity_checking or not trainer.is_global_zero or not len(data.splits["val"]):
            return
        index = data.splits["val"][: self.count]
        references = [pl_module.features.to_text(ids) for ids in data.arrays.y[index].tolist()]
        found = pl_module.transcribe(data.arrays.x.index_select(0, index))
        rows = {"reference": references, "hypothesis": found, "file": [data.where["pool"][i] for i in index.tolist()]}
        add_rows(trainer, "samples/transcripts.json", {"step": [trainer.global_step] * len(index), **rows})

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        recorded = any(isinstance(logger, BufferedMLflowLogger) for logger in trainer.loggers)
        if not (recorded and trainer.is_global_zero and isinstance(pl_module, SpeechRecognition)):
            return
        data, ordered = trainer.datamodule, sorted(pl_module.transcripts, key=lambda one: one.sample)  # type: ignore[attr-defined]
        places = data.where["test" if data.arrays.test else "pool"]
        columns = ["file", "reference", "hypothesis", "cer", "wer"]
        rows = [(places[one.sample], one.reference, one.hypothesis, one.cer, one.wer) for one in ordered]
        file = Path(trainer.default_root_dir) / "predictions" / "transcripts.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows, columns=columns).to_csv(file, index=False)
