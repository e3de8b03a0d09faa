"""Loads or quantizes the model of a run to export, and loads the data to verify the export on."""

import copy
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from mlflow.entities import Run

from lightning_modules.compression.compressed_state import CompressedState
from lightning_modules.compression.stage import StageContext
from lightning_modules.config.errors import UserError
from lightning_modules.data.in_memory import InMemoryData
from lightning_modules.run import build
from lightning_modules.run.data_adapter import open_data
from lightning_modules.run.serve import load_module, model_weights
from lightning_modules.task.supervised import Supervised
from lightning_modules.tracking.resume import best_checkpoint, recorded_config
from lightning_modules.tracking.store import Store
from lightning_modules.tracking.tags import COMPRESSED_MODEL_TAG, DATA_FINGERPRINT_TAG


@dataclass(frozen=True)
class ExportSource:
    """The models of a run.

    Attributes:
        task: with the float network: the compressed one if it is in floats, else the best checkpoint.
        description: which of the two.
        program: the compressed network if it is an int8 ONNX model.
    """

    task: pl.LightningModule
    description: str
    program: Supervised | None


def load_source(store: Store, run: Run) -> ExportSource:
    """Load the run's models. Raises UserError if it has saved none, or if one is damaged."""
    from lightning_modules.compression.onnx_model import OnnxModel

    compressed: Any = None  # a task of ours, or another module with a spec
    if model_id := run.data.tags.get(COMPRESSED_MODEL_TAG):
        compressed = load_module(model_weights(store, f"models:/{model_id}"))
        if not isinstance(compressed.get_submodule(compressed.task_spec.get("module") or "model"), OnnxModel):
            return ExportSource(compressed, f"compressed model models:/{model_id}", None)
    path = best_checkpoint(store, run)
    return ExportSource(load_module(path), path.name, compressed)


def load_recorded_data(store: Store, run: Run) -> InMemoryData:
    """The data of the run's config. Raises UserError if it is missing or has changed."""
    cfg = recorded_config(store, run)
    found = open_data(cfg)
    if found.fingerprint() != run.data.tags.get(DATA_FINGERPRINT_TAG):
        raise UserError(f"data fingerprint mismatch: {found.name} is not what run {run.info.run_id} was trained on")
    data = found.own or found.read_samples(build.build_trainer(cfg, [], None, Path()))
    if not any(len(data.splits[part]) for part in ("test", "val", "train")):
        raise UserError(f"run {run.info.run_id} has no samples to verify an export on")
    return data


def quantize_for_export(task: Supervised, data: InMemoryData) -> Supervised:
    """A copy of the task whose network is an int8 ONNX model.

    Raises UserError if the network has an operation without an int8 kernel, or if there are no calibration samples.
    """
    from lightning_modules.compression.quantization.int8 import StaticInt8
    from lightning_modules.compression.stage_runner import calibration_batches

    stage, quantized = StaticInt8(), copy.deepcopy(task)
    stage.name = "quantized"
    x = data.example(min(64, len(data.arrays.x)))
    stage.begin(StageContext(quantized, CompressedState(), x, functools.partial(calibration_batches, data, 0)))
    return quantized.eval()
