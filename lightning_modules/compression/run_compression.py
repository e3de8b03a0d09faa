"""After training: save, reload, test, measure and record the network of every compression stage."""

import copy
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lightning_modules.compression.artifact import FILE, load_compressed, save_compressed
from lightning_modules.compression.cost_report import TEST_METRICS, CostReport, plot_costs
from lightning_modules.compression.stage import Stage
from lightning_modules.compression.stage_fits import StageFits, steps_done
from lightning_modules.report.tables import markdown_table, open_console, terminal_table
from lightning_modules.run.compression import FitCall
from lightning_modules.run.publish import held_out_samples, run_description
from lightning_modules.run.serve import write_pyfunc
from lightning_modules.tracking.record import Record
from lightning_modules.tracking.tags import COMPRESSED_MODEL_TAG


class _StageRecorder:
    """The cost report of one run, with a LoggedModel for each stage, derived from that of the stage before."""

    def __init__(self, compression: StageFits, record: Record | None, tested: dict[str, float]) -> None:
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
            self.record.send({"do": "tags", "tags": {COMPRESSED_MODEL_TAG: model_id}})
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


class RunCompression(StageFits):
    """The compression recipe of a run, which `run/compression.py` builds if it has stages."""

    def evaluate(
        self,
        record: Record | None,
        logger: Any,
        folder: Path,
        fit: FitCall,
        trainer: pl.Trainer,
        tested: dict[str, float],
    ) -> dict[str, float]:
        """Run the stages that follow training; return the metrics of the compressed network.

        Args:
            record: None on processes that do not record; they only take part in the fits.
            folder: for the checkpoints from which an interrupted run resumes.
            tested: the metrics of the trained network.
        """
        recipe = self.recipe
        if not recipe.compresses:
            return {}
        lead = trainer.is_global_zero
        first = steps_done(trainer, folder / "last.ckpt")
        phases = self.phases(folder, logger, first, fit, writes=lead)
        report = _StageRecorder(self, record, {} if recipe.keeps_last else dict(tested)) if lead else None
        if report and not recipe.after:
            report.add(1, recipe.in_fit[-1], first)
        for number, stage, known in phases.run():
            if report and not (known and number < len(recipe.after)):
                report.add(number, stage, phases.steps + number)
        if report is None:
            return {}
        metrics = report.finish(tested)
        phases.clean()
        return metrics
