"""Predict files with a recorded model: one CSV row per sample."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO
from warnings import warn

import numpy as np
import pytorch_lightning as pl
import torch
import yaml
from torch import Tensor

from lightning_modules.config.errors import UserError
from lightning_modules.data.class_folders import printable_name
from lightning_modules.data.table_input import TableInput
from lightning_modules.run.input_files import InputSpec, list_files, read_samples
from lightning_modules.run.named_forward import NamedForward
from lightning_modules.run.serve import load_module, model_weights
from lightning_modules.task.supervised import Supervised
from lightning_modules.tracking.resume import best_checkpoint, recorded_config
from lightning_modules.tracking.store import Store, find_run

_BATCH_SIZE = 256
_MAX_LISTED = 5  # files that a message names


def find_model(store: Store, wanted: str) -> tuple[pl.LightningModule, InputSpec]:
    """The task with the best weights of a run or of ``models:/…`` (also compressed), and the samples it accepts.

    Raises UserError if it does not exist or is damaged.
    """
    from mlflow.models import Model

    models = wanted.startswith("models:/")
    path = model_weights(store, wanted) if models else best_checkpoint(store, find_run(store, wanted))
    if not (path.parent / "MLmodel").is_file():
        raise UserError(f"{wanted} has weights, but cannot predict files; the description of the run says why")
    described = Model.from_dict(yaml.safe_load((path.parent / "MLmodel").read_text()))
    data = recorded_config(store, store.client.get_run(described.run_id)).data
    task, target = load_module(path), str(data.get("_target_"))
    table = TableInput.of(task.task_spec) if isinstance(task, Supervised) else None
    if table is not None:
        shape, dtype = (len(table.columns),), table.dtype
    else:
        spec, *more = described.signature.inputs.inputs
        if more:
            raise UserError(
                f"{wanted} takes {1 + len(more)} inputs, but a file holds one: send it arrays by name with serve"
            )
        shape, dtype = tuple(spec.shape[1:]), torch.from_numpy(np.zeros(1, spec.type)).dtype
        table = TableInput((), dtype) if target.endswith(".Tabular") else None
    text = str(data.get("text", "text"))
    encode = getattr(getattr(task, "preprocess", None), "encode", None)
    images = target.endswith((".ImageFolder", ".SegmentationFolder")) and data.get("image_size") is not None
    settings = {"encoding": data.get("encoding"), "background": data.get("background", "white")}
    return task, InputSpec(shape, dtype, images, encode, table=table, text=text, **settings)


def predict(task: pl.LightningModule, wanted: InputSpec, source: Path, out: TextIO) -> int:
    """Write a CSV row for each sample of a file, or of all files in a folder; return the number of rows.

    Columns: ``file``, ``sample`` (its number in the file), then ``class`` and ``probability``; one probability per label
    for multilabel tasks, one value per output for regression and for another LightningModule.

    A warning lists files that cannot be read or whose samples have another shape or type than the model's. Raises
    UserError if no file is left.
    """
    model = task if isinstance(task, Supervised) else NamedForward(task)
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["file", "sample", *_columns(model)])
    files, failed, count = list_files(source), [], 0
    for file in files:
        try:
            samples = read_samples(file, wanted)
        except UserError as error:
            failed.append(str(error))
            continue
        scores = (_scores(model, x) for x in samples.split(_BATCH_SIZE))
        for number, row in enumerate(row for part in scores for row in _rows(model, part)):
            table.writerow([printable_name(str(file)), number, *row])
        count += len(samples)
    if failed and len(failed) == len(files):
        raise UserError("\n".join(failed[:_MAX_LISTED]))
    if failed:
        listed = [*failed[:_MAX_LISTED], *(["…"] if len(failed) > _MAX_LISTED else [])]
        warn("\n".join([f"{len(failed)} of {len(files)} files were not predicted:", *listed]), stacklevel=2)
    return count


def _scores(task: Supervised | NamedForward, x: Tensor) -> Tensor:
    if isinstance(task, NamedForward):
        found = task.outputs(dict.fromkeys(task.example, x)).values()
        return torch.cat([output.reshape(len(output), -1) for output in found], 1)
    with torch.inference_mode():
        return task.scores(task(x))


def _columns(task: Supervised | NamedForward) -> list[str]:
    if isinstance(task, NamedForward):
        sizes = {name: output[0].numel() for name, output in task.outputs(task.example).items()}
        return [f"{name} {i}" if size > 1 else name for name, size in sizes.items() for i in range(size)]
    kind, outputs = getattr(task, "kind", None), int(getattr(task, "num_outputs", 1))
    if kind in ("multiclass", "binary"):
        return ["class", "probability"]
    word = "value" if kind is None else "probability"
    return [f"{word} {task.output_name(i)}" if outputs > 1 or kind else word for i in range(outputs)]


def _rows(task: Supervised | NamedForward, scores: Tensor) -> Iterator[list[str]]:
    if isinstance(task, NamedForward):
        yield from ([f"{value:.6g}" for value in row] for row in scores.flatten(1).tolist())
        return
    kind = getattr(task, "kind", None)
    if kind == "binary":  # the score is that of class 1
        scores = torch.stack([1 - scores, scores], 1)
    if kind in ("multiclass", "binary"):
        for probability, index in zip(*scores.max(1), strict=True):
            yield [task.output_name(int(index)), f"{probability:.6f}"]
    else:
        yield from ([f"{value:.6g}" for value in row] for row in scores.reshape(len(scores), -1).tolist())
