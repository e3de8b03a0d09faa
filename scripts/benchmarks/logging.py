"""What it costs to record metrics in every step."""

import functools
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.loop import MEASURED, train
from benchmarks.measure import Row, interleaved, quotients, table

STEPS, PER_STEP = 1000, 3


def run(repeats: int) -> None:
    """Three metrics in each of 1,000 steps against the same loop without a logger."""
    quiet = [f"~callbacks.{name}" for name in ("best", "last", "learning_rate", "progress", "summary")]
    common = [*quiet, "tracking.system_metrics_s=null", "+callbacks.three._target_=benchmarks.logging.three_metrics"]
    off = [*quiet, "tracking=none", "+callbacks.three._target_=benchmarks.logging.three_metrics"]
    stop = [f"trainer.max_steps={STEPS}", "trainer.max_epochs=1000", "data.batch_size=64"]
    rows = []
    for name, model in {
        "digits, convnet": ["data=digits", "model=convnet"], "MNIST-1D, linear": ["data=mnist1d", "model=linear"],
    }.items():  # fmt: skip
        times = interleaved(
            {
                "off": functools.partial(logged, [*model, *stop, *off]),
                "on": functools.partial(logged, [*model, *stop, *common]),
            },
            repeats,
        )
        for i, unit in enumerate(("CPU", "wall")):
            on, none = ([seconds[i] for seconds in times[key]] for key in ("on", "off"))
            cost = statistics.median([a - b for a, b in zip(on, none, strict=True)])
            point = (
                f"{statistics.median(none) / STEPS * 1e3:.2f} ms a step, {cost / STEPS / PER_STEP * 1e6:.0f} µs a point"
            )
            rows.append(Row(f"{name}, {unit}", quotients(on, none), 1.05, note=point))
    table(
        f"logging ({PER_STEP} metrics in each of {STEPS} steps / no logger; stored in SQLite within the time)",
        rows,
    )


def logged(choice: Sequence[str]) -> tuple[float, float]:
    """CPU and wall seconds of training, the first epoch included."""
    MEASURED["from_epoch"] = 0
    train(choice)
    del MEASURED["from_epoch"]
    return MEASURED["cpu"], MEASURED["wall"]


def three_metrics() -> Any:
    """A callback that logs three metrics after each step: so the loop is the ordinary one, step by step."""
    from pytorch_lightning import Callback, LightningModule, Trainer

    class ThreeMetrics(Callback):
        def on_train_batch_end(
            self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            lr, loss = trainer.optimizers[0].param_groups[0]["lr"], outputs["loss"]
            values = {"step/loss": loss, "step/lr": lr, "step/samples": float(len(batch["y"]))}
            if trainer.logger is not None:
                trainer.logger.log_metrics(values, trainer.global_step)

    return ThreeMetrics()
