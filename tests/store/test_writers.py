"""Eight processes write at once, and every point is there."""

import multiprocessing
from pathlib import Path

import pytest

from lightning_modules.tracking.logger import BufferedMLflowLogger
from lightning_modules.tracking.store import Store, open_store

WRITERS, STEPS = 8, 400


def write(uri: str, number: int, go: str) -> None:
    import time

    store = open_store(uri)
    run = store.client.create_run(store.experiment("together"), tags={"number": str(number)})
    while not Path(go).exists():
        time.sleep(0.001)
    logger = BufferedMLflowLogger(store.client, run.info.run_id, flush_points=50)
    for step in range(STEPS):
        logger.log_metrics({"train/loss": number + step / STEPS, "val/loss": -step * number}, step)
    logger.attach_model(
        store.client.create_logged_model(run.info.experiment_id, source_run_id=run.info.run_id).model_id
    )
    logger.log_metrics({"test/loss": float(number)}, STEPS)
    logger.finalize("success")
    store.client.set_terminated(run.info.run_id)


@pytest.mark.slow
def test_eight_processes_lose_and_double_no_point(store: Store, tmp_path: Path) -> None:
    context, go = multiprocessing.get_context("fork"), tmp_path / "go"
    writers = [context.Process(target=write, args=(store.uri, number, str(go))) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    go.touch()
    for writer in writers:
        writer.join(250)
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    runs = store.client.search_runs([store.experiment("together")])
    assert sorted(int(run.data.tags["number"]) for run in runs) == list(range(WRITERS))
    for run in runs:
        number = int(run.data.tags["number"])
        stored = {
            name: sorted((p.step, p.value) for p in store.client.get_metric_history(run.info.run_id, name))
            for name in run.data.metrics
        }
        assert stored == {
            "train/loss": [(step, number + step / STEPS) for step in range(STEPS)],
            "val/loss": [(step, -step * number) for step in range(STEPS)],
            "test/loss": [(STEPS, float(number))],
        }
        assert run.info.status == "FINISHED" and run.data.metrics["train/loss"] == stored["train/loss"][-1][1]
