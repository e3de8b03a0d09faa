"""``format=transformers``: a pre-trained network and its tokenizer as a folder of Hugging Face transformers."""

from pathlib import Path

from mlflow.entities import Run

from lightning_modules.config.errors import UserError
from lightning_modules.export.source import load_source
from lightning_modules.task.supervised import Supervised
from lightning_modules.tracking.store import Store
from lightning_modules.zoo.data.vocabulary import Vocabulary
from lightning_modules.zoo.model.masked_bert import MaskedBert, save_pretrained


def export_transformers(store: Store, run: Run, out: str = "") -> str:
    """Write the folder and log it to the run; return its place among the artifacts.

    Raises UserError if the run's network is not `MaskedBert`, or the folder exists already.
    """
    task = load_source(store, run).task
    network, words = (task.model, task.preprocess) if isinstance(task, Supervised) else (task, None)
    if not isinstance(network, MaskedBert) or not isinstance(words, Vocabulary):
        raise UserError(f"format=transformers: only for model=masked_bert; the network is {type(network).__name__}")
    folder = Path(out or f"{run.info.run_name}-transformers").expanduser()
    if folder.exists():
        raise UserError(f"out={folder} exists already: set another out=FOLDER")
    save_pretrained(network, words, folder)
    artifact = "export/transformers"
    store.client.log_artifacts(run.info.run_id, str(folder), artifact)
    print(f"written: {folder}, logged to run {run.info.run_id} as {artifact}")
    print(f"use it with: model=hf_text data.tokenizer={folder.absolute()}")
    return artifact
