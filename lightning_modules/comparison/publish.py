"""Output of a comparison: the terminal, files in a folder, and artifacts of the common parent run."""

import re
import sys
import tempfile
from pathlib import Path

from lightning_modules.comparison import table
from lightning_modules.comparison.compare import Comparison
from lightning_modules.comparison.curve import Curve, curve_table, draw_curve
from lightning_modules.errors import UserError
from lightning_modules.killed import undisturbed
from lightning_modules.tracking.between import write_between
from lightning_modules.tracking.origin import origin_of
from lightning_modules.tracking.store import Store, open_store

FOLDER = "comparison"


def show(comparison: Comparison) -> None:
    """Print the table and the notes."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)  # a file or a pipe has no width
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


def write_curve(curve: Curve, folder: Path) -> list[Path]:
    """Write ``METRIC_along_KEY.md`` and ``.png`` into `folder`; return the files."""
    name = re.sub(r"[^\w.-]+", "_", f"{curve.comparison.metric}_along_{curve.x}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(f"{curve_table(curve)}\n", encoding="utf-8")
    draw_curve(curve).savefig(folder / f"{name}.png", dpi=120)
    return [folder / f"{name}.{ending}" for ending in ("md", "png")]


def write_into(curve: Curve, file: Path, mark: str) -> None:
    """Write the curve between the markers of a Markdown file, and its plot beside it as ``MARK.png``."""
    ids = [run_id for row in curve.comparison.rows for run_id in row.runs]
    origin = origin_of(open_store(), ids)
    metric = f"`{curve.comparison.metric}` ({'lower' if curve.comparison.lower_is_better else 'higher'} is better)"
    said = [f"{metric}; mean and 95 % interval over n seeds; differences are paired by seed."]
    said.append(f"{len(ids)} runs, {origin.date} at {origin.commit}; {origin.machine}.")
    write_between(file, f"{curve_table(curve)}\n\n{' '.join(said)}\n\n![{mark}]({mark}.png)", mark)
    draw_curve(curve).savefig(file.with_name(f"{mark}.png"), dpi=80)


def log(comparison: Comparison, curve: Curve | None = None) -> None:
    """Log the files as artifacts of the common parent run, or of a new run. If the store rejects them, print one warning."""
    from mlflow.exceptions import MlflowException

    try:
        store = open_store()
        with tempfile.TemporaryDirectory() as folder:
            files = write(comparison, Path(folder))
            if curve is not None:
                write_curve(curve, Path(folder))
            with undisturbed():  # a signal must not leave the new run RUNNING
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
