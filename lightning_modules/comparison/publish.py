"""Output of a comparison: the terminal, files in a folder, and artifacts of the common parent run."""

import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from lightning_modules.comparison import table
from lightning_modules.comparison.result import Comparison
from lightning_modules.config.errors import UserError
from lightning_modules.config.signals import defer_signals
from lightning_modules.report.tables import open_console
from lightning_modules.tracking.store import Store, open_store
from lightning_modules.tracking.tags import KIND_TAG

ARTIFACT_FOLDER = "comparison"


def print_comparison(comparison: Comparison) -> None:
    """Print the table and the notes."""
    console = open_console()
    console.print(table.to_rich(comparison))
    hidden = len(comparison.rows) - table.MAX_TERMINAL_ROWS
    more = [f"{hidden} more rows are in the files"] if hidden > 0 else []
    for note in [*comparison.notes, *more]:
        console.print(f"- {note}", markup=False, soft_wrap=True)


def write_files(comparison: Comparison, folder: Path) -> list[Path]:
    """Write ``METRIC.md``, ``.tex``, ``.csv`` and ``.png`` (METRIC with _ for /) into `folder`; return the files."""
    from lightning_modules.comparison.plot import plot_comparison

    name = re.sub(r"[^\w.-]+", "_", comparison.metric)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"md": table.to_markdown(comparison), "tex": table.to_latex(comparison), "csv": table.to_csv(comparison)}
    for ending, text in texts.items():
        (folder / f"{name}.{ending}").write_text(text, encoding="utf-8")
    plot_comparison(comparison).savefig(folder / f"{name}.png", dpi=120)
    return [folder / f"{name}.{ending}" for ending in (*texts, "png")]


def log_comparison(comparison: Comparison, write_more: Callable[[Path], object] | None = None) -> None:
    """Log the files as artifacts of the common parent run, or of a new run. If the store rejects them, print one warning."""
    from mlflow.exceptions import MlflowException

    try:
        store = open_store()
        with tempfile.TemporaryDirectory() as folder:
            files = write_files(comparison, Path(folder))
            if write_more is not None:
                write_more(Path(folder))
            with defer_signals():  # a signal must not leave the new run RUNNING
                run_id = comparison.parent_id or _create_run(store, comparison)
                store.client.log_artifacts(run_id, folder, ARTIFACT_FOLDER)
                if comparison.parent_id is None:
                    store.client.set_terminated(run_id, "FINISHED")
    except (UserError, MlflowException, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        print(f"warning: the comparison was not logged: {reason}", file=sys.stderr)
        return
    print(f"logged to run {run_id} as {ARTIFACT_FOLDER}/{files[0].stem}.{{md,tex,csv,png}}")


def _create_run(store: Store, comparison: Comparison) -> str:
    tags = {
        KIND_TAG: "comparison",
        "comparison.metric": comparison.metric,
        "comparison.by": ", ".join(comparison.by),
        "comparison.baseline": comparison.baseline or "",
        "mlflow.note.content": table.to_markdown(comparison)[:5000],
    }
    name = f"comparison {comparison.metric}"[:250]
    return str(store.client.create_run(comparison.experiment_id, run_name=name, tags=tags).info.run_id)
