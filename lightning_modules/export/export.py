"""Exports a run's model to a file, loads it back, compares it with the checkpoint, times both, and logs all of it."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from mlflow.entities import Run
from torch import Tensor

from lightning_modules.compression.profiling import Timing, time_interleaved
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.data.in_memory import InMemoryData
from lightning_modules.data.table_input import TableInput
from lightning_modules.export.formats import FILE_NAMES, fuse_onnx, scoring_model, trace, write_format
from lightning_modules.export.runtime import ExportedModel, Predictor, load_exported
from lightning_modules.export.source import ExportSource, load_recorded_data, load_source, quantize_for_export
from lightning_modules.export.verification import Agreement, compare_outputs
from lightning_modules.report.tables import open_console, terminal_table
from lightning_modules.run.named_forward import ModelValues, NamedForward
from lightning_modules.run.serve import write_model_card
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
    times: dict[str, Timing]


def export_run(
    store: Store, run: Run, form: str, quantized: bool, folder: Path
) -> tuple[ExportResult, ModelValues | Tensor]:
    """Write the run's model into `folder`, load it back, compare it with the checkpoint and time both.

    Returns the result, and an example of raw samples (of another module: of its inputs, arrays by name).

    Raises UserError for an unknown format, a run without weights, other data than recorded, a network that the format
    does not support, and a file whose outputs differ from the checkpoint's.
    """
    if form not in FILE_NAMES:
        raise UserError(f"format={form}: {suggest(form, FILE_NAMES)}")
    if quantized and form != "onnx":  # ResNet-20 on torch 2.14.1: int8 in AOTInductor is no faster, or wrong if frozen
        raise UserError(f"format={form} quantized=true: int8 is not faster in this format; choose format=onnx")
    source = load_source(store, run)
    task = source.task
    if not isinstance(task, Supervised):
        return _export_module(task, source.description, form, quantized, folder / FILE_NAMES[form])
    data = load_recorded_data(store, run)
    x = data.example(min(BATCH_SIZE, len(data.arrays.x)))
    path = folder / FILE_NAMES[form]
    description = source.description + _write(form, quantized, source, task, data, x[:4], path)
    scored = scoring_model(task)
    agreement = compare_outputs(scored, load_exported(path), data, classes=hasattr(task, "kind"))
    _check_agreement(form, quantized, agreement)
    table, times = TableInput.of(task.task_spec), _measure_latency(scored, path, [x])
    return ExportResult(form + "_int8" * quantized, path, description, agreement, table, times), x[:4]


def _export_module(
    task: pl.LightningModule, description: str, form: str, quantized: bool, path: Path
) -> tuple[ExportResult, ModelValues | Tensor]:
    """The same for a LightningModule that is not one of ours, verified on its ``example_input_array``, and with noise."""
    if quantized:
        raise UserError("quantized=true: only for tasks derived from Supervised; train with compression=int8_static")
    try:
        call = NamedForward(task).eval()
    except UserError as error:
        raise UserError(f"format={form}: {type(task).__name__} cannot be exported: {error}") from error
    inputs = [torch.cat([x, x]) for x in call.example.values()]  # a batch size of 1 would be exported as a constant
    write_format(form, trace(call, *inputs), path, inputs=list(call.example), outputs=list(call.outputs(call.example)))
    exported = load_exported(path)
    noisy = [torch.cat([x, x + torch.randn_like(x)]) if x.is_floating_point() else torch.cat([x, x]) for x in inputs]
    with torch.inference_mode():
        pairs = [(out, exported(*xs)[name]) for xs in (inputs, noisy) for name, out in call(*xs).items()]
    errors = [float((a.float() - b.float()).abs().max()) for a, b in pairs]
    largest = max(float(a.float().abs().max()) for a, _ in pairs)
    count = len(inputs[0]) + len(noisy[0])
    agreement = Agreement(count, "example_input_array", max(errors), largest, None, None)
    _check_agreement(form, quantized, agreement)
    result = ExportResult(form, path, description, agreement, None, _measure_latency(call, path, inputs))
    return result, call.example_arrays()


def _write(
    form: str, quantized: bool, source: ExportSource, task: Supervised, data: InMemoryData, x: Tensor, path: Path
) -> str:
    """Write the file; return what to add to the description of the source."""
    if not quantized:
        write_format(form, trace(scoring_model(task), x), path)
        return ""
    if hasattr(task, "export_model"):
        raise UserError("quantized=true: outputs of this task are decoded in float; use quantized=false")
    path.write_bytes(fuse_onnx(source.program or quantize_for_export(task, data), x))
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


def _measure_latency(reference: Predictor, path: Path, inputs: Sequence[Tensor]) -> dict[str, Timing]:
    """Latency, on one thread, of the checkpoint (eager) and of the file in its runtime, for 1 sample and for 64."""
    with torch.inference_mode(), single_thread():
        runner = load_exported(path)  # again, since some runtimes set their threads when they start
        found: dict[str, Timing] = {}
        for size in (1, BATCH_SIZE):
            batch = [x.repeat(-(-size // len(x)), *(1,) * (x.ndim - 1))[:size] for x in inputs]
            sides = {"checkpoint": functools.partial(reference, *batch), "exported": functools.partial(runner, *batch)}
            timed = time_interleaved(sides, seconds=0.5, min_timing_s=0)
            found |= {f"{side}_{size}": time for side, time in timed.items()}
    return found


# --- the report and the record ------------------------------------------------------------------------------------
def export_metrics(found: ExportResult) -> dict[str, float]:
    """The metrics by the names under which they are logged, ``export/<name>/…``."""
    agreement, named = found.agreement, {}
    named["size_bytes"] = float(found.path.stat().st_size)
    named["max_error"] = agreement.max_error
    if agreement.top1 is not None:
        named["top1_agreement"] = agreement.top1
    if agreement.accuracy is not None:
        named[f"{agreement.part}/accuracy"] = agreement.accuracy[1]
    for size, suffix in ((1, ""), (BATCH_SIZE, f"_batch{BATCH_SIZE}")):
        time, eager = found.times[f"exported_{size}"], found.times[f"checkpoint_{size}"]
        named |= {f"latency{suffix}_ms": time.median_ms, f"latency{suffix}_p95_ms": time.p95_ms}
        named[f"speedup{suffix}"] = eager.median_ms / time.median_ms
    return {f"export/{found.name}/{key}": value for key, value in named.items()}


def print_export(found: ExportResult) -> None:
    """Print checkpoint and exported file side by side."""
    a = found.agreement
    rows: list[list[str]] = []
    if a.accuracy is not None:
        rows.append([f"accuracy ({a.part}, n={a.samples})", *(f"{value:.4f}" for value in a.accuracy)])
    if a.top1 is not None:
        rows.append(["top-1 agreement", "", f"{a.top1:.4f}"])
    rows.append(["largest difference of a score", "", f"{a.max_error:.2e}"])
    rows.append(["bytes", "", f"{found.path.stat().st_size:,}"])
    for size in (1, BATCH_SIZE):
        cells = (found.times[f"{side}_{size}"] for side in ("checkpoint", "exported"))
        label = f"batch of {size}, one thread: p50 / p95 ms"
        rows.append([label, *(f"{time.median_ms:.3f} / {time.p95_ms:.3f}" for time in cells)])
    title = f"{found.path.name} of {found.source}"
    open_console().print(terminal_table(["", "checkpoint, eager", found.name], rows, title=title))


def log_export(store: Store, run_id: str, found: ExportResult, example: ModelValues | Tensor) -> None:
    """Log file, MLmodel with signature, and metrics to the run, under ``export/<name>``."""
    write_mlmodel(found.path, example, run_id, found.table)
    store.client.log_artifacts(run_id, str(found.path.parent), f"export/{found.name}")
    for name, value in export_metrics(found).items():
        store.client.log_metric(run_id, name, value)


def write_mlmodel(path: Path, example: ModelValues | Tensor, run_id: str, table: TableInput | None = None) -> None:
    """Write the MLmodel file, so that ``mlflow models serve -m runs:/RUN_ID/export/<name>`` serves the export."""
    inputs = example.numpy() if isinstance(example, Tensor) else example
    names = list(inputs) if isinstance(inputs, dict) else ()
    predicted = ExportedModel(load_exported(path), names=names).predict(inputs)
    write_model_card(path, "lightning_modules.export.runtime", inputs, predicted, table, run_id=run_id)
