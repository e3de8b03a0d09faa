"""Saves, reloads, tests, measures and records the network after every compression stage."""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from torch import nn

from lightning_modules.compression.artifact import FILE, load_compressed, save_compressed
from lightning_modules.compression.cost_report import CostReport, plot_costs
from lightning_modules.compression.profiling import is_onnx_model
from lightning_modules.compression.stage import Stage, StageContext
from lightning_modules.report.tables import markdown_table, open_console, terminal_table
from lightning_modules.run.publish import held_out_samples, run_description
from lightning_modules.run.serve import write_pyfunc
from lightning_modules.task.supervised import Supervised
from lightning_modules.tracking.record import Record
from lightning_modules.tracking.tags import COMPRESSED_MODEL_TAG


class StageRecorder:
    """The cost report of one run, with a LoggedModel for each stage, derived from that of the stage before.

    Args:
        dense, tested: the dense network, and its metrics, if it was trained.
        measure: (network, parts of the data) -> metrics.
    """

    def __init__(
        self,
        context: StageContext,
        data: Any,
        record: Record | None,
        dense: nn.Module,
        runtimes: tuple[str, ...],
        tested: dict[str, float],
        measure: Callable[..., dict[str, float]],
    ) -> None:
        self.context, self.data, self.record, self.measure = context, data, record, measure
        self.folder = record.folder / "compression" if record else context.folder
        self.costs = CostReport(dense, context.preprocess(context.example[:1]), runtimes, tested)
        self.line = [("dense", record.model_id)] if record else []

    def add(self, number: int, stage: Stage, step: int) -> None:
        """Save, load back, test and measure the network as it is now."""
        task, model_id, place = self.context.task, "", self.folder
        if self.record:
            params = {"stage": stage.name, "kind": stage.kind, **stage.settings()}
            model_id, place = self.record.new_model(f"{number}-{stage.name}", self.line, params)
            for side in ("compressed/", "compression/"):
                self.record.logger.attach_model(model_id, side)
        place.mkdir(parents=True, exist_ok=True)
        written = save_compressed(place / FILE, task.model, self.context.state, task.task_spec)
        network = load_compressed(place / FILE).model
        self.costs.add(stage.name, network, written, self.measure(network, "val", "test"))
        if self.record:
            dense, task.model = task.model, network  # what was measured
            try:
                example, samples = self.data.example(4), held_out_samples(self.data)
                write_pyfunc(place / FILE, example, task, samples, model_id, self.record.run_id)
            finally:
                task.model = dense
            (place / "tensors.txt").write_text(written.table())
            self.record.logger.log_metrics(self.costs.named(), step)
            self.record.logger.flush()
            self.record.send({"do": "model", "model_id": model_id, "step": step})
            self.record.send({"do": "tags", "tags": {COMPRESSED_MODEL_TAG: model_id}})
        self.line.append((f"{number}-{stage.name}", model_id))

    def finish(self, metrics: dict[str, float]) -> dict[str, float]:
        """Draw and print the comparison, and put it on the run's page below `metrics`; return its metrics."""
        head, rows = self.costs.cells(spread=False)
        verdict, console = self.costs.verdict(), open_console()
        console.print(terminal_table(head, rows, left=(head.index("network"),), title="compressed"))
        console.print(verdict, highlight=False, soft_wrap=True)
        if self.record:
            console.print(f"model  models:/{self.line[-1][1]}", highlight=False)
            text = f"{markdown_table(*self.costs.cells(spread=True))}\n\n{verdict}\n"
            self.record.text("compression/table.md", text)
            note = run_description(self.record, metrics, text)
            self.record.send({"do": "tags", "tags": {"mlflow.note.content": note}})
            plot_costs(self.costs.rows, self.record.folder / "compression" / "comparison.png")
        return self.costs.named()


def measure_network(task: Supervised, model: nn.Module, data: Any, part: str, accelerator: str) -> dict[str, float]:
    """The metrics of a network in the task's place on the part ``val`` or ``test``, in this one process."""
    before, kept = task.model, task.test_buffer
    task.model = model
    off: Any = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    device = "cpu" if is_onnx_model(model) else accelerator
    trainer = pl.Trainer(accelerator=device, devices=1, use_distributed_sampler=False, **off)
    try:
        (trainer.test if part == "test" else trainer.validate)(task, datamodule=data, verbose=False)
    finally:
        task.model, task.test_buffer = before, kept
    return {key: float(value) for key, value in trainer.callback_metrics.items()}
