"""A small student of a larger teacher, with little data: with and without the teacher, in pairs of seeds."""

from typing import Any

from benchmarks.compression import FASHION, metrics_of

SEEDS = 5
LITTLE = ("data.fraction=0.1",)
STUDENT = ("model=mlp", "model.hidden=[32]", "trainer.max_epochs=60")  # 2,600 steps
TEACHER = (
    "trainer.max_epochs=15",
    "model=resnet20",
    "scheduler=one_cycle",
    "optimizer.lr=3e-3",
    "augmentation=image_basic",
)


def run(repeats: int) -> None:
    """Print the accuracy of student and taught student, and the difference with its interval."""
    from lightning_modules.report.statistics import bca_intervals, sign_flip_p

    teacher, accuracy = _teacher()
    pairs = []
    for seed in range(SEEDS):
        alone = metrics_of(*FASHION, *LITTLE, *STUDENT, f"seed={seed}")["test/accuracy"]
        taught = metrics_of(
            *FASHION, *LITTLE, *STUDENT, f"seed={seed}", "compression=distillation",
            f"compression.stages.distil.teacher={teacher}", "compression.stages.distil.cache=true",
        )["test/accuracy"]  # fmt: skip
        pairs.append((100 * alone, 100 * taught))
    import numpy as np

    alone, taught = (np.array(values) for values in zip(*pairs, strict=True))
    difference: Any = taught - alone
    interval, p = bca_intervals([difference])[0], sign_flip_p([difference])[0]
    low, high = interval or (float("nan"), float("nan"))
    print(f"\n### distillation (10 % of Fashion-MNIST, {SEEDS} seeds in pairs; teacher {100 * accuracy:.2f} %)\n")
    print("| student alone | taught | difference | 95 % interval | p |\n|---|---|---|---|---|")
    print(
        f"| {alone.mean():.2f} ± {alone.std(ddof=1):.2f} | {taught.mean():.2f} ± {taught.std(ddof=1):.2f} "
        f"| {difference.mean():+.2f} | [{low:+.2f}, {high:+.2f}] | {p or float('nan'):.3f} |",
        flush=True,
    )


def _teacher() -> tuple[str, float]:
    """Train the teacher on the same tenth of the data; return its run and its test accuracy."""
    from lightning_modules.tracking.store import open_store

    accuracy = metrics_of(*FASHION, *LITTLE, *TEACHER, "name=teacher")["test/accuracy"]
    store = open_store()
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    found = store.client.search_runs(experiments, "attributes.run_name = 'teacher'")[0]
    return found.info.run_id, accuracy
