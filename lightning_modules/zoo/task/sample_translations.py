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
        index = data.splits["val"][: self.count]
        x, training = data.arrays.x.index_select(0, index), pl_module.training
        found = pl_module.eval().translate_ids(x[:, 0].to(pl_module.device), beam=1).cpu()
        pl_module.train(training)
        rows: dict[str, Sequence[object]] = {
            "step": [trainer.global_step] * len(index),
            "source": list(map(data.sample_text, x)),
            "reference": [data.reference("val", i) for i in index.tolist()],
            "translation": list(map(pl_module.pairs.to_text, found)),
        }
        add_rows(trainer, "samples/translations.json", rows)
