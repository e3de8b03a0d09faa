"""What recipes gain, measured on the files they leave: size, quality, latency, on Fashion-MNIST and on random weights."""

from collections.abc import Sequence
from typing import Any

QUIET = ("~callbacks.progress", "~callbacks.summary", "tracking.system_metrics_s=null", "tracking.pictures=false")
FASHION = ("data=fashion_mnist", "data.batch_size=128", "optimizer=adam", *QUIET)


def run(repeats: int) -> None:
    """All tables of compression; `repeats` times four turns for a latency."""
    from benchmarks import compression_size, compression_speed, distillation, latency, lottery

    compression_size.run(repeats)
    compression_speed.run(repeats)
    latency.run(repeats)
    distillation.run(repeats)
    lottery.run(repeats)


def metrics_of(*overrides: str) -> dict[str, float]:
    """Train, compress and return the metrics of one run."""
    import contextlib
    import io

    from lightning_modules.config.command_line import compose_run
    from lightning_modules.run.run import run as train

    with contextlib.redirect_stdout(io.StringIO()):  # its own tables
        return train(compose_run([*overrides]))


def points(found: Sequence[dict[str, float]], metric: str) -> list[float]:
    """What compression changed in the test metric, in points."""
    return [100 * (m[f"compressed/test/{metric}"] - m[f"dense/test/{metric}"]) for m in found]


def stages_of(run_id: str) -> dict[str, dict[str, Any]]:
    """The metrics of the LoggedModel of every stage, by its name."""
    from lightning_modules.tracking.store import open_store

    store = open_store()
    experiment = store.client.get_run(run_id).info.experiment_id
    models = store.client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    return {model.name: {m.key: m.value for m in model.metrics or []} for model in models}
