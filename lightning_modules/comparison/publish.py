"""Where a comparison goes: the terminal, a folder, and the run that its parts have in common."""

import re
import sys
import tempfile
from pathlib import Path

from lightning_modules.comparison import table
from lightning_modules.comparison.compare import Comparison
from lightning_modules.errors import UserError
from lightning_modules.tracking.store import Store, open_store

FOLDER = "comparison"


def show(comparison: Comparison) -> None:
    """Print the table and the notes."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)  # a file or a pipe has no edge
    console.print(table.terminal(comparison))
    hidden = len(comparison.rows) - table.SHOWN
    more = [f"{hidden} more rows are in the files"] if hidden > 0 else []
    for note in [*comparison.notes, *more]:
        console.print(f"- {note}", markup=False, soft_wrap=True)


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """Write ``METRIC.md``, ``.tex``, ``.csv`` and ``.png`` (METRIC with _ for /) into `folder`; return the files."""
    from lightning_modules.comparison.picture import draw

    name = re.sub(r"[^\w.-]+", "_", comparison.metric)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"md": table.markdown(comparison), "tex": table.latex(comparison), "csv": table.as_csv(comparison)}
    for ending, text in texts.items():
        (folder / f"{name}.{ending}").write_text(text, encoding="utf-8")
    draw(comparison).savefig(folder / f"{name}.png", dpi=120)
    return [folder / f"{name}.{ending}" for ending in (*texts, "png")]


def log(comparison: Comparison) -> None:
    """Store the four files as artifacts of the common parent, or of a new run; a store that refuses gets one warning."""
    from mlflow.exceptions import MlflowException

    try:
        store = open_store()
        with tempfile.TemporaryDirectory() as folder:
            files = write(comparison, Path(folder))
            run_id = comparison.home or _new_run(store, comparison)
            store.client.log_artifacts(run_id, folder, FOLDER)
            if comparison.home is None:
                store.client.set_terminated(run_id, "FINISHED")
    except (UserError, MlflowException, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        print(f"warning: the comparison was not logged: {reason}", file=sys.stderr)
        return
    print(f"logged to run {run_id} as {FOLDER}/{files[0].stem}.{{md,tex,csv,png}}")


def _new_run(store: Store, comparison: Comparison) -> str:
    tags = {
        "touchstone.kind": "comparison",
        "comparison.metric": comparison.metric,
        "comparison.by": ", ".join(comparison.by),
        "comparison.baseline": comparison.baseline or "",
        "mlflow.note.content": table.markdown(comparison)[:5000],
    }
    name = f"comparison {comparison.metric}"[:250]
    return str(store.client.create_run(comparison.experiment_id, run_name=name, tags=tags).info.run_id)
