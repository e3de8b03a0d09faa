"""Predictions of a recorded model for files: images, arrays and tables, in; one row a sample, out."""

import csv
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor

from lightning_modules.errors import UserError
from lightning_modules.serve import load_task, weights_of_model
from lightning_modules.task.supervised import Supervised
from lightning_modules.tracking.resume import best_checkpoint, recorded_config
from lightning_modules.tracking.store import Store, find_run

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
SUFFIXES = (*IMAGES, ".npy", ".csv")
_BATCH = 256


@dataclass(frozen=True)
class Wanted:
    """What samples a model reads: their shape, their type, and whether images are cut to size as in training."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    fits_images: bool

    def __str__(self) -> str:
        return f"the model reads {str(self.dtype).removeprefix('torch.')} samples of shape {list(self.shape)}"


def find_model(store: Store, wanted: str) -> tuple[Supervised, Wanted]:
    """The best model of a run, or the model ``models:/…``, and what it reads.

    Raises UserError where it is not there or damaged.
    """
    from mlflow.models import Model

    if wanted.startswith("models:/"):
        path = weights_of_model(store, wanted)
    else:
        path = best_checkpoint(store, find_run(store, wanted))
    task = load_task(path)
    described: Any = Model.load(str(path.parent / "MLmodel"))
    spec = described.signature.inputs.inputs[0]
    run = store.client.get_run(described.run_id)
    data = str(recorded_config(store, run).data.get("_target_"))
    dtype = torch.from_numpy(np.zeros(1, spec.type)).dtype
    return task, Wanted(tuple(spec.shape[1:]), dtype, data.endswith(".ImageFolder"))


def predict(task: Supervised, wanted: Wanted, source: Path, out: TextIO) -> int:
    """Write a CSV with one row for each sample of a file, or of all files of a folder; return their number.

    Columns: ``file``, ``sample`` (its number in the file), and ``class`` and ``probability`` (of the likeliest class), or
    the probability of each label, or each value.

    Raises UserError for a file that cannot be read, and for samples of another shape or type than the model reads.
    """
    names = _columns(task)
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["file", "sample", *names])
    count = 0
    for file in _files(source):
        for x in _read(file, wanted).split(_BATCH):
            with torch.inference_mode():
                scores = task.scores(task(x))
            for i, row in enumerate(_rows(task, scores)):
                table.writerow([file, count_in(file, i), *row])
            count += len(x)
    return count
