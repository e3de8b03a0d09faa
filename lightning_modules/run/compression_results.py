"""After training: save, reload, test, measure and record the network of every compression stage."""

import copy
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lightning_modules.compression.artifact import FILE, load_compressed, save_compressed
from lightning_modules.compression.cost_report import TEST_METRICS, CostReport, plot_costs
from lightning_modules.compression.stage import Stage
from lightning_modules.report.tables import markdown_table, open_console, terminal_table
from lightning_modules.run.compression import FitCall, RunCompression, steps_done
from lightning_modules.run.publish import held_out_samples, run_description
from lightning_modules.run.serve import write_pyfunc
from lightning_modules.tracking.record import Record


def evaluate_stages(
    compression: RunCompression,
    record: Record | None,
    logger: Any,
    folder: Path,
    fit: FitCall,
    trainer: pl.Trainer,
    tested: dict[str, float],
) -> dict[str, float]:
    """Do what the recipe says after training; return the metrics of the compressed network.

    `record`: None on processes that do not record: they take part in the fits only. `folder`: for the points from
    which a run goes on. `tested`: the metrics of the network as it was trained.
    """
    recipe = compression.recipe
    if not recipe.compresses:
        return {}
    lead = trainer.is_global_zero
    first = steps_done(trainer, folder / "last.ckpt")
    phases = compression.phases(folder, logger, first, fit, writes=lead)
    account = _StageRecorder(compression, record, {} if recipe.keeps_last else dict(tested)) if lead else None
    if account and not recipe.after:
        account.add(1, recipe.in_fit[-1], first)
    for number, stage, known in phases.run():
        if account and not (known and number < len(recipe.after)):
            account.add(number, stage, phases.steps + number)
    if account is None:
        return {}
    metrics = account.finish(tested)
    phases.clean()
    return metrics


class _StageRecorder:
    """The account of one run, with a LoggedModel for each stage, made from that of the stage before."""

    def __init__(self, compression: RunCompression, record: Record | None, tested: dict[str, float]) -> None:
        self.compression, self.record = compression, record
        context = compression.context
        self.folder = record.folder / "compression" if record else compression.folder
        dense = (compression.dense or copy.deepcopy(context.model)).cpu().eval()
        if tested:
            tested = {k: v for k, v in tested.items() if k.startswith("test/")} | compression.validated(context.model)
        self.account = CostReport(dense, context.preprocess(context.example[:1]), compression.recipe.runtimes, tested)
        self.line = [("dense", record.model_id)] if record else []
        self.step = 0

    def add(self, number: int, stage: Stage, step: int) -> None:
        """Save, load back, test and measure the network as it is now."""
        task, state = self.compression.task, self.compression.context.state
        model_id, place = "", self.folder
        if self.record:
            said = {"stage": stage.name, "kind": stage.kind, **stage.settings()}
            model_id, place = self.record.new_model(f"{number}-{stage.name}", self.line, said)
            for side in ("compressed/", "compression/"):
                self.record.logger.attach_model(model_id, side)
        place.mkdir(parents=True, exist_ok=True)
        written = save_compressed(place / FILE, task.model, state, task.task_spec)
        network = load_compressed(place / FILE).model
        self.account.add(stage.name, network, written, self.compression.quality(network))
        self.step = step
        if self.record:
            data, dense = self.compression.data, task.model
            task.model = network  # what was measured
            try:
                write_pyfunc(place / FILE, data.example(4), task, held_out_samples(data), model_id, self.record.run_id)
            finally:
                task.model = dense
            (place / "tensors.txt").write_text(written.table())
            self.record.logger.log_metrics(self.account.named(), step)
            self.record.logger.flush()
            self.record.send({"do": "model", "model_id": model_id, "step": step})
            self.record.send({"do": "tags", "tags": {"touchstone.compressed_model_id": model_id}})
        self.line.append((f"{number}-{stage.name}", model_id))

    def finish(self, metrics: dict[str, float]) -> dict[str, float]:
        """Draw and print the comparison, and put it on the run's page below `metrics`; return its metrics."""
        head, rows = self.account.cells(spread=False)
        verdict = self.account.verdict()
        console = open_console()
        console.print(terminal_table(head, rows, left=(head.index("network"),), title="compressed"))
        console.print(verdict, highlight=False, soft_wrap=True)
        if self.record:
            console.print(f"model  models:/{self.line[-1][1]}", highlight=False)
            text = f"{markdown_table(*self.account.cells(spread=True))}\n\n{verdict}\n"
            self.record.text("compression/table.md", text)
            self.record.send(
                {"do": "tags", "tags": {"mlflow.note.content": run_description(self.record, metrics, text)}}
            )
            metric = next((name for name in TEST_METRICS if name in self.account.rows[-1].metrics), None)
            plot_costs(self.account.rows, metric, self.record.folder / "compression" / "comparison.png")
        return self.account.named()
