"""Sample texts of a run as a table in MLflow, added to at each validation."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl

from lightning_modules.config.bounds import bounded
from lightning_modules.config.errors import UserError
from lightning_modules.tracking.logger import BufferedMLflowLogger
from lightning_modules.zoo.task.generation import Sampling, encode_prompt, generate
from lightning_modules.zoo.task.language_model import LanguageModel

_TABLES_TAG = "mlflow.loggedArtifacts"  # which MLflow's page of evaluations lists tables by


class SampleTexts(pl.Callback):
    """Writes ``samples/texts.json``: after each validation a row per prompt, with the text that the model continues it with.

    The random numbers (`Sampling`) are the same each time, and none of the training's. A prompt null begins a line.
    """

    @bounded
    def __init__(self, prompts: Sequence[str | None] = (None,), **sampling: Any) -> None:
        self.prompts, self.sampling = list(prompts), Sampling(**sampling)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not isinstance(pl_module, LanguageModel):
            raise UserError(f"callbacks.sample_texts: {type(pl_module).__name__} is no language model; remove it")
        for prompt in self.prompts:
            encode_prompt(pl_module, prompt)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and isinstance(pl_module, LanguageModel) and not trainer.sanity_checking:
            texts = [generate(pl_module, prompt, self.sampling) for prompt in self.prompts]
            shown = ["\n" if prompt is None else prompt for prompt in self.prompts]
            step = [trainer.global_step] * len(texts)
            add_rows(trainer, "samples/texts.json", {"step": step, "prompt": shown, "text": texts})


def add_rows(trainer: pl.Trainer, file: str, rows: Mapping[str, Sequence[object]]) -> None:
    """Add rows (columns, with ``step``) to a table of the run, as ``mlflow.log_table`` writes it.

    A resumed run replaces the rows of steps that it repeats.
    """
    logger = next((logger for logger in trainer.loggers if isinstance(logger, BufferedMLflowLogger)), None)
    if logger is None:
        return
    path, table = Path(trainer.default_root_dir) / file, pd.DataFrame(dict(rows))
    if path.is_file():
        known = pd.DataFrame(**json.loads(path.read_text(encoding="utf-8")))
        table = pd.concat([known[known["step"] < table["step"].min()], table], ignore_index=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        tables = json.loads(logger.experiment.get_run(logger.run_id).data.tags.get(_TABLES_TAG, "[]"))
        listed = [*tables, {"path": file, "type": "table"}]
        logger.experiment.set_tag(logger.run_id, _TABLES_TAG, json.dumps(listed))
    part = path.with_name(f".{path.name}.part")
    table.to_json(part, orient="split", index=False)
    part.replace(path)
