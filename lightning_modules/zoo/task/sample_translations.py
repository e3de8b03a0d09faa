"""Sample translations of a run as a table in MLflow, added to at each validation."""

from collections.abc import Sequence

import pytorch_lightning as pl

from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data.parallel_text import ParallelText
from lightning_modules.zoo.task.sample_texts import add_rows
from lightning_modules.zoo.task.translation import Translation


class SampleTranslations(pl.Callback):
    """Writes ``samples/translations.json``: the first `count` validation sentences after each validation, greedy.

    Columns: ``step``, ``source``, ``reference``, ``translation``.
    """

    @bounded
    def __init__(self, count: Count = 5) -> None:
        self.count = count

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not isinstance(pl_module, Translation):
            raise UserError(f"callbacks.sample_translations: {type(pl_module).__name__} translates nothing; remove it")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        assert isinstance(pl_module, Translation) and isinstance(data, ParallelText)
        index = data.splits["val"][: self.count].tolist()
        sources = [
            data.sample_text(data.arrays.x.index_select(0, data.splits["val"][i : i + 1])[0]) for i in range(len(index))
        ]
        rows: dict[str, Sequence[object]] = {
            "step": [trainer.global_step] * len(index),
            "source": sources,
            "reference": [data.reference("val", i) for i in index],
            "translation": pl_module.translate(sources, beam=1),
        }
        add_rows(trainer, "samples/translations.json", rows)
