import json
import math
import multiprocessing
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.tracking import logger as logger_module
from lightning_modules.tracking.logger import BufferedMLflowLogger, last_steps
from lightning_modules.tracking.outbox import UnsentDataWarning, deliver
from lightning_modules.tracking.rerun import first_difference
from lightning_modules.tracking.store import Store, open_store


@pytest.fixture(scope="module")
def store(new_store: Callable[[], str]) -> Store:
    return open_store(new_store())


@pytest.fixture
def run_id(store: Store) -> str:
    return str(store.client.create_run(store.experiment("logged")).info.run_id)


def history(store: Store, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in store.client.get_metric_history(run_id, key)]


def test_three_thousand_points_are_all_stored_at_their_steps(store: Store, run_id: str) -> None:
    logger = BufferedMLflowLogger(store.client, run_id)
    for step in range(1000):
        logger.log_metrics({"train/loss": 1 / (step + 1), "train/accuracy": torch.tensor(step / 8), "lr": 0.5}, step)
        logger.save()
    logger.finalize("success")
    assert history(store, run_id, "train/loss") == [(step, 1 / (step + 1)) for step in range(1000)]
    assert history(store, run_id, "train/accuracy") == [(step, step / 8) for step in range(1000)]
    assert len(history(store, run_id, "lr")) == 1000
    assert store.client.get_run(run_id).data.metrics["train/accuracy"] == 999 / 8
    assert (logger.version, logger.name, logger.experiment) == (run_id, "logged", logger._client)


def test_points_wait_until_they_are_enough_or_long_enough(store: Store, run_id: str) -> None:
    patient = BufferedMLflowLogger(store.client, run_id, flush_points=10, flush_seconds=3600)
    for step in range(9):
        patient.log_metrics({"a": step}, step)
        patient.save()
    assert history(store, run_id, "a") == []
    patient.log_metrics({"a": 9}, 9)
    assert len(history(store, run_id, "a")) == 10
    hasty = BufferedMLflowLogger(store.client, run_id, flush_points=10**6, flush_seconds=0)
    hasty.log_metrics({"b": 1}, 0)
    assert history(store, run_id, "b") == [(0, 1.0)]


def test_a_resumed_run_stores_no_step_twice(store: Store, run_id: str) -> None:
    first = BufferedMLflowLogger(store.client, run_id)
    for step in range(10):
        first.log_metrics({"loss": step}, step)
    first.log_metrics({"val": 0.5}, 4)
    first.flush()
    assert last_steps(store.client, run_id) == {"loss": 9, "val": 4}
    second = BufferedMLflowLogger(store.client, run_id, already=last_steps(store.client, run_id))
    for step in range(5, 15):
        second.log_metrics({"loss": step, "val": 0.5, "new": 1.0}, step)
    second.flush()
    assert [step for step, _ in history(store, run_id, "loss")] == list(range(15))
    assert [step for step, _ in history(store, run_id, "val")] == [4, *range(5, 15)]
    assert len(history(store, run_id, "new")) == 10


def test_equal_points_nan_and_infinity_are_stored(store: Store, run_id: str) -> None:
    logger = BufferedMLflowLogger(store.client, run_id)
    for value in (1.0, 1.0, math.nan, float("nan"), math.inf, -math.inf):
        logger.log_metrics({"odd": value}, 3)
    assert logger.flush()
    values = [value for _, value in history(store, run_id, "odd")]
    # two equal points are one where they have the same millisecond, which nobody can promise
    assert {v for v in values if not math.isnan(v)} == {-1.7976931348623157e308, 1.0, 1.7976931348623157e308}
    assert sum(math.isnan(value) for value in values) >= 1


def test_a_tensor_that_changes_afterwards_is_stored_as_it_was(store: Store, run_id: str) -> None:
    logger = BufferedMLflowLogger(store.client, run_id)
    total = torch.tensor(1.0, requires_grad=True)
    logger.log_metrics({"total": total, "count": torch.tensor([2**40 + 1]), "on": True}, 0)
    with torch.no_grad():
        total += 1
    logger.flush()
    assert store.client.get_run(run_id).data.metrics == {"total": 1.0, "count": 2**40 + 1, "on": 1.0}


def test_tensors_of_several_kinds_keep_their_order_when_they_are_fetched_together() -> None:
    values: list[float | torch.Tensor] = [
        1.5,
        torch.tensor(2.5),
        torch.tensor(3),
        torch.tensor(4.5),
        torch.tensor(True),
    ]
    points = [logger_module.Point("x", value, 0, 0) for value in values]
    assert logger_module._numbers(points) == [1.5, 2.5, 3.0, 4.5, 1.0]


def test_test_metrics_are_linked_to_the_model_they_were_measured_on(store: Store, run_id: str) -> None:
    experiment = store.client.get_run(run_id).info.experiment_id
    model_id = store.client.create_logged_model(experiment, source_run_id=run_id).model_id
    logger = BufferedMLflowLogger(store.client, run_id)
    logger.attach_model(model_id)
    for _ in range(2):  # a NaN is equal to nothing, not even to the same point
        logger.log_metrics({"test/loss": float("nan"), "test/accuracy": 0.9, "val/loss": 1.0}, 7)
    assert logger.flush()
    linked = {m.key: m.step for m in store.client.get_logged_model(model_id).metrics or []}
    assert linked == {"test/loss": 7, "test/accuracy": 7}
    assert store.client.get_run(run_id).data.metrics["test/accuracy"] == 0.9


def test_a_name_that_mlflow_refuses_is_changed_with_one_warning(store: Store, run_id: str, capsys: Any) -> None:
    names = {"val/acc@5": "val/acc_5", "val/acc#5": "val/acc_5_ec575f8d", "../up": "up", "a//b": "a/b", "": "_",
             "x" * 249 + "/y": "x" * 249, "a:b (c)": "a:b _c_",
             "..b": "b", "val/a@b": "val/a_b", "val/a_b": "val/a_b_a265234c"}  # fmt: skip
    logger = BufferedMLflowLogger(store.client, run_id)
    for step in range(2):
        logger.log_metrics({name: float(number) for number, name in enumerate(names)}, step)
    assert logger.flush()
    stored = store.client.get_run(run_id).data.metrics
    assert stored == {key: float(number) for number, key in enumerate(names.values())}
    said = capsys.readouterr().err
    assert said.count("since MLflow or another metric") == len(names)
    assert "warning: metric 'val/acc@5' is recorded as 'val/acc_5', since MLflow" in said


@pytest.mark.parametrize("value", [torch.zeros(3), "much", None])
def test_what_is_no_number_is_an_error_when_it_is_logged(store: Store, run_id: str, value: object) -> None:
    with pytest.raises(UserError, match="log a scalar"):
        BufferedMLflowLogger(store.client, run_id).log_metrics({"a": value}, 0)  # type: ignore[dict-item]


def test_a_store_that_fails_for_a_while_gets_every_point_once_it_is_back(store: Store, run_id: str) -> None:
    path = Path(store.uri.removeprefix("sqlite:///"))
    logger = BufferedMLflowLogger(store.client, run_id, flush_points=5, flush_seconds=0.0)
    away = path.with_suffix(".away")
    store.client._tracking_client.store.engine.dispose()
    path.rename(away)
    path.mkdir()  # nothing can open it now
    with pytest.warns(
        UserWarning, match="points are buffered because the tracking store does not accept them"
    ) as warned:
        for step in range(20):
            logger.log_metrics({"loss": step}, step)
    path.rmdir()
    away.rename(path)
    assert len(warned) == 1
    assert logger.flush()
    assert [step for step, _ in history(store, run_id, "loss")] == list(range(20))


def test_points_that_no_server_takes_go_to_a_file_that_can_be_delivered_later(
    store: Store, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(logger_module, "LAST_PAUSE", 0.0)
    monkeypatch.setenv("TOUCHSTONE_HOME", str(tmp_path))
    logger = BufferedMLflowLogger(MlflowClient(tracking_uri="http://127.0.0.1:9"), run_id)
    for step in range(30):
        logger.log_metrics({"loss": torch.tensor(step / 4), "odd": math.nan}, step)
    with pytest.warns(UserWarning) as warned:
        logger.finalize("failed")
    path = tmp_path / "mlruns" / "undelivered" / f"{run_id}.jsonl"
    assert [w.category for w in warned] == [UnsentDataWarning]
    assert str(path) in str(warned[0].message) and logger.undelivered == path
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["step"], row["value"]) for row in rows if row["key"] == "loss"] == [(s, s / 4) for s in range(30)]
    assert deliver(store.client, path) == deliver(store.client, path) == 60
    assert history(store, run_id, "loss") == [(step, step / 4) for step in range(30)]


def test_points_logged_by_several_threads_are_all_stored(store: Store, run_id: str) -> None:
    logger = BufferedMLflowLogger(store.client, run_id, flush_points=50)

    def log(name: str) -> None:
        for step in range(200):
            logger.log_metrics({name: step}, step)

    threads = [threading.Thread(target=log, args=(f"thread {i}",)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    logger.flush()
    for i in range(3):
        assert [step for step, _ in history(store, run_id, f"thread {i}")] == list(range(200))


def log_in_child(logger: BufferedMLflowLogger) -> None:
    for step in range(100, 200):
        logger.log_metrics({"loss": step}, step)
    logger.finalize("success")


def test_parent_and_forked_child_both_log_and_no_point_is_lost_or_doubled(store: Store, run_id: str) -> None:
    logger = BufferedMLflowLogger(store.client, run_id, flush_points=40)
    for step in range(100):
        logger.log_metrics({"loss": step}, step)  # 80 are stored, 20 wait in the parent
    child = multiprocessing.get_context("fork").Process(target=log_in_child, args=(logger,))
    child.start()
    for step in range(200, 300):
        logger.log_metrics({"loss": step}, step)
    child.join(60)
    logger.finalize("success")
    assert child.exitcode == 0
    assert sorted(step for step, _ in history(store, run_id, "loss")) == list(range(300))


def test_other_ranks_log_nothing(store: Store, run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = BufferedMLflowLogger(store.client, run_id, flush_points=1)
    logger.log_metrics({"loss": 1.0}, 0)
    logger.finalize("success")
    assert store.client.get_run(run_id).data.metrics == {}


def test_a_test_metric_is_the_shortest_decimal_of_its_float32(store: Store, run_id: str) -> None:
    logger = BufferedMLflowLogger(store.client, run_id)
    values = {
        "test/accuracy": torch.tensor(0.97),
        "test/loss": 0.9700000286102295,
        "dense/test/f1": torch.tensor(1 / 3),
    }
    exact = {"test/double": 1 / 3, "test/count": 123456792.0, "test/zero": 0.0, "val/loss": 0.9700000286102295}
    logger.log_metrics({**values, **exact, "test/nan": torch.tensor(math.nan)}, 0)
    logger.finalize("success")
    stored = store.client.get_run(run_id).data.metrics
    assert (stored["test/accuracy"], stored["test/loss"], stored["dense/test/f1"]) == (0.97, 0.97, 0.33333334)
    assert all(stored[name] == value for name, value in exact.items()) and math.isnan(stored["test/nan"])


def test_a_rerun_of_an_earlier_record_is_equal_to_the_shortest_decimals() -> None:
    assert first_difference([(0, 0.9700000286102295), (1, math.nan)], [(0, 0.97), (1, math.nan)]) is None
    assert first_difference([(0, 0.9700000286102295)], [(0, 0.9700001)]) == 0
