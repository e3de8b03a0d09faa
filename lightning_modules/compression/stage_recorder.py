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
from lightning_modules.run.publish import run_description, write_served
from lightning_modules.task.profiling import model_size
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
        data: pl.LightningDataModule,
        record: Record | None,
        dense: nn.Module,
        runtimes: tuple[str, ...],
        tested: dict[str, float],
        measure: Callable[..., dict[str, float]],
    ) -> None:
        self.context, self.data, self.record, self.measure = context, data, record, measure
        self.folder = record.folder / "compression" if record else context.folder
        self.own = context.task if isinstance(context.task, Supervised) else None
        sizes = (model_size(part)["model/size_bytes"] for part in (context.task, context.model))
        x, others = context.preprocess(context.example[:1]), 0 if self.own else next(sizes) - next(sizes)
        self.costs = CostReport(dense, x, runtimes, tested, other_bytes=others)
        self.line = [("dense", record.model_id)] if record else []

    def add(self, number: int, stage: Stage, step: int) -> None:
        """Save, load back, test and measure the network as it is now."""
        context, model_id, place = self.context, "", self.folder
        if self.record:
            params = {"stage": stage.name, "kind": stage.kind, **stage.settings()}
            model_id, place = self.record.new_model(f"{number}-{stage.name}", self.line, params)
            for side in ("compressed/", "compression/"):
                self.record.logger.attach_model(model_id, side)
        place.mkdir(parents=True, exist_ok=True)
        state = context.state if self.own else context.state.prefixed(context.module)
        written = save_compressed(place / FILE, context.saved, state, context.spec)
        network = load_compressed(place / FILE).get_submodule(context.module)
        self.costs.add(stage.name, network, written, self.measure(network, "val", "test"))
        if self.record:
            dense, context.model = context.model, network  # what was measured
            try:
                served = (self.data, context.task, context.not_servable, model_id, self.record.run_id)
                write_served(place / FILE, *served)
            finally:
                context.model = dense
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
            note = run_description(self.record, metrics, text, self.context.not_servable)
            self.record.send({"do": "tags", "tags": {"mlflow.note.content": note}})
            plot_costs(self.costs.rows, self.record.folder / "compression" / "comparison.png")
        return self.costs.named()


def measure_network(
    context: StageContext, model: nn.Module, data: pl.LightningDataModule, part: str, device: str
) -> dict[str, float]:
    """The metrics of a network in the task on the part ``val`` or ``test``, in this one process."""
    task, before, kept = context.task, context.model, getattr(context.task, "test_buffer", None)
    context.model = model
    if not isinstance(task, Supervised):
        pl.seed_everything(context.seed, workers=True, verbose=False)  # `setup` may draw a split
    off: Any = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(
        accelerator="cpu" if is_onnx_model(model) else device, devices=1, use_distributed_sampler=False, **off
    )
    try:
        (trainer.test if part == "test" else trainer.validate)(task, datamodule=data, verbose=False)
    finally:
        context.model = before
        if isinstance(task, Supervised):
            task.test_buffer = kept
    return {key: float(value) for key, value in trainer.callback_metrics.items()}
