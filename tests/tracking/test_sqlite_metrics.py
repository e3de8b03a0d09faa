"""The quick way of storing points leaves in the store what MLflow's own way leaves."""

import math
import sqlite3
from contextlib import closing
from typing import Any

import pytest
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from lightning_modules.tracking.sqlite_metrics import _insert_rows, log_metrics_fast


def points(shift: int = 0) -> list[Metric]:
    values = [0.5, math.nan, math.inf, -math.inf, 1e-300, 3.0]
    return [Metric("val/loss", value, 1000 + i, shift + i) for i, value in enumerate(values)] + [
        Metric("val/loss", 0.25, 1005, shift + 5),  # the same step and time again, a lower value
        Metric("a name:with 1", 1.0, 7, 3),
        Metric("a name:with 1", 1.0, 7, 3),
    ]


def rows_of(store: Any, run_id: str) -> tuple[list[Any], list[Any]]:
    with closing(sqlite3.connect(store.uri.removeprefix("sqlite:///"))) as database:
        what = "SELECT key, value, timestamp, step, is_nan FROM {} WHERE run_uuid = ? ORDER BY 1, 4, 3, 2"
        every, latest = (
            database.execute(what.format(table), [run_id]).fetchall() for table in ("metrics", "latest_metrics")
        )
    return every, latest


def test_points_and_latest_values_are_those_that_mlflow_would_store(store: Any) -> None:
    client, experiment = store.client, store.experiment("bulk")
    ours, theirs = (client.create_run(experiment).info.run_id for _ in range(2))
    for batch in (points(), points(shift=10), points(shift=4), points()):  # later, earlier and known steps
        log_metrics_fast(client, ours, batch)
        client.log_batch(theirs, metrics=batch)
        assert rows_of(store, ours) == rows_of(store, theirs)
    assert client.get_run(ours).data.metrics.keys() == {"val/loss", "a name:with 1"}


def test_the_quick_way_is_taken_where_it_can_be(store: Any) -> None:
    run = store.client.create_run(store.experiment("bulk"))
    assert _insert_rows(store.client._tracking_client.store, run.info.run_id, points())


def test_a_deleted_run_takes_no_points(store: Any) -> None:
    run = store.client.create_run(store.experiment("bulk"))
    store.client.delete_run(run.info.run_id)
    with pytest.raises(MlflowException, match="active"):
        log_metrics_fast(store.client, run.info.run_id, points())
    assert rows_of(store, run.info.run_id) == ([], [])
