"""Reports an export: a table in the terminal, and file, signature and metrics in the run."""

from pathlib import Path

from torch import Tensor

from lightning_modules.data.table_input import TableInput
from lightning_modules.export.export import BATCH_SIZE, ExportResult
from lightning_modules.export.runtime import load_exported
from lightning_modules.report.tables import open_console, terminal_table
from lightning_modules.tracking.store import Store


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
        named |= {f"latency{suffix}_ms": time.p50_ms, f"latency{suffix}_p95_ms": time.p95_ms}
        named[f"speedup{suffix}"] = eager.p50_ms / time.p50_ms
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
        rows.append([label, *(f"{time.p50_ms:.3f} / {time.p95_ms:.3f}" for time in cells)])
    title = f"{found.path.name} of {found.source}"
    open_console().print(terminal_table(["", "checkpoint, eager", found.name], rows, title=title))


def log_export(store: Store, run_id: str, found: ExportResult, example: Tensor) -> None:
    """Log file, MLmodel with signature, and metrics to the run, under ``export/<name>``."""
    write_mlmodel(found.path, example, run_id, found.table)
    store.client.log_artifacts(run_id, str(found.path.parent), f"export/{found.name}")
    for name, value in export_metrics(found).items():
        store.client.log_metric(run_id, name, value)


def write_mlmodel(path: Path, example: Tensor, run_id: str, table: TableInput | None = None) -> None:
    """Write the MLmodel file, so that ``mlflow models serve -m runs:/RUN_ID/export/<name>`` serves the export."""
    from lightning_modules.export.runtime import ExportedModel
    from lightning_modules.run.serve import write_model_card

    predicted = ExportedModel(load_exported(path)).predict(example.numpy())
    write_model_card(path, "lightning_modules.export.runtime", example.numpy(), predicted, table, run_id=run_id)
