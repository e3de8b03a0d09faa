"""Exports a run's model to a file, loads it back, compares it with the checkpoint, and times both."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mlflow.entities import Run
from torch import Tensor

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.data.table_input import TableInput
from lightning_modules.export.formats import FILE_NAMES, ScoringModel, fuse_onnx, trace, write_format
from lightning_modules.export.runtime import Predictor, load_exported
from lightning_modules.export.source import ExportSource, load_recorded_data, load_source
from lightning_modules.export.source import quantize_for_export as make_int8
from lightning_modules.export.verification import Agreement, LatencyPercentiles, compare_outputs, latency_percentiles
from lightning_modules.task.profiling import single_thread
from lightning_modules.task.supervised import Supervised
from lightning_modules.tracking.store import Store

TOLERANCE = 1e-3  # largest allowed difference of a float export, relative to the largest score
MIN_AGREEMENT = 0.5  # an int8 file is not logged if fewer samples get the same class
BATCH_SIZE = 64


@dataclass(frozen=True)
class ExportResult:
    """An exported file and its measurements.

    Attributes:
        name: ``onnx``, ``onnx_int8``, ``pt2`` or ``aoti``: names the folder of the artifacts and the metrics.
        path: the file.
        source: describes the model it was exported from.
        table: the columns, if the model was trained on a table.
        times: of ``checkpoint`` and ``exported``, each for 1 sample and for 64.
    """

    name: str
    path: Path
    source: str
    agreement: Agreement
    table: TableInput | None
    times: dict[str, LatencyPercentiles]


def export_run(store: Store, run: Run, form: str, quantized: bool, folder: Path) -> tuple[ExportResult, Tensor]:
    """Write the run's model into `folder`, load it back, compare it with the checkpoint and time both.

    Returns the result, and an example of raw samples.

    Raises UserError for an unknown format, a run without weights, other data than recorded, a network that the format
    does not support, and a file whose outputs differ from the checkpoint's.
    """
    if form not in FILE_NAMES:
        raise UserError(f"format={form}: {suggest(form, FILE_NAMES)}")
    if quantized and form != "onnx":  # ResNet-20 on torch 2.14.1: int8 in AOTInductor is no faster, or wrong if frozen
        raise UserError(f"format={form} quantized=true: int8 is not faster in this format; choose format=onnx")
    source, data = load_source(store, run), load_recorded_data(store, run)
    x = data.example(min(BATCH_SIZE, len(data.arrays.x)))
    path = folder / FILE_NAMES[form]
    description = source.description + _write(form, quantized, source, data, x[:4], path)
    reference, runner = _eager_predictor(source.task), load_exported(path)
    agreement = compare_outputs(reference, runner, data, classes=hasattr(source.task, "kind"))
    _check_agreement(form, quantized, agreement)
    return ExportResult(
        form + "_int8" * quantized,
        path,
        description,
        agreement,
        TableInput.of(source.task.task_spec),
        _measure_latency(reference, path, x),
    ), x[:4]


def _write(form: str, quantized: bool, source: ExportSource, data: Any, x: Tensor, path: Path) -> str:
    """Write the file; return what to add to the description of the source."""
    if not quantized:
        write_format(form, trace(ScoringModel(source.task), x), path)
        return ""
    path.write_bytes(fuse_onnx(source.program or make_int8(source.task, data), x))
    return " and the run's int8 program" if source.program else ", int8 calibrated on training samples"


def _check_agreement(form: str, quantized: bool, found: Agreement) -> None:
    """Raise UserError if the outputs differ too much: of a float file the scores, of an int8 file the classes."""
    if not quantized and not found.max_error <= TOLERANCE * max(1.0, found.largest):
        description = f"a score differs by {found.max_error:.3g}"
    elif quantized and found.top1 is not None and found.top1 < MIN_AGREEMENT:
        description = f"they agree on {found.top1:.1%} of {found.samples} samples"
    else:
        return
    raise UserError(f"format={form}: the exported model differs from the checkpoint ({description}); it was not logged")


def _eager_predictor(task: Supervised) -> Predictor:
    scored = ScoringModel(task).eval()
    return lambda x: scored(x)


def _measure_latency(reference: Predictor, path: Path, x: Tensor) -> dict[str, LatencyPercentiles]:
    """Latency, on one thread, of the checkpoint (eager) and of the file in its runtime, for 1 sample and for 64."""
    with torch.inference_mode(), single_thread():
        runner = load_exported(path)  # again, since some runtimes set their threads when they start
        found: dict[str, LatencyPercentiles] = {}
        for size in (1, BATCH_SIZE):
            batch = x.repeat(-(-size // len(x)), *(1,) * (x.ndim - 1))[:size]
            sides = {"checkpoint": lambda b=batch: reference(b), "exported": lambda b=batch: runner(b)}
            found |= {f"{side}_{size}": time for side, time in latency_percentiles(sides).items()}
    return found
