"""Runs are compared and pushed from Python."""

from pathlib import Path
from typing import Any

import pytest

import lightning_modules as touchstone
from lightning_modules.config.errors import UserError
from lightning_modules.tracking.store import open_store


@pytest.fixture
def runs(store: Any) -> list[str]:
    ids = []
    for lr, seed, loss in (("1e-3", "0", 0.5), ("1e-3", "1", 0.75), ("None", "0", 0.25)):
        run_id = store.client.create_run(store.experiment("here"), run_name=f"{lr} {seed}").info.run_id
        for key, value in (("lr", lr), ("seed", seed)):
            store.client.log_param(run_id, key, value)
        for metric, value in (("val/loss", loss), ("model/params", 4.0)):
            store.client.log_metric(run_id, metric, value)
        store.client.set_terminated(run_id)
        ids.append(run_id)
    return ids


def test_a_comparison_is_a_table(runs: list[str]) -> None:
    table = touchstone.compare("here", by=["lr"], metric="val/loss", baseline="lr=None")
    assert list(table["lr"]) == ["None", "1e-3"]  # as recorded
    assert list(table["mean"]) == [0.25, 0.625] and list(table["n"]) == [1, 2]
    assert set(table["runs"][1].split()) == set(runs[:2])
    assert table.attrs["metric"] == "val/loss" and table.attrs["lower_is_better"]
    assert any("no interval" in note for note in table.attrs["notes"])
    ratio = touchstone.compare("here", by=["lr"], metric="val/loss / model/params", better="lower")
    assert list(ratio["mean"]) == [0.0625, 0.15625]
    with pytest.raises(UserError, match="no run or experiment 'there'"):
        touchstone.compare("there")


def test_runs_are_pushed_once(runs: list[str], tmp_path: Path) -> None:
    server = open_store(f"sqlite:///{tmp_path}/other/mlflow.db")
    pushed = touchstone.sync(to=server.uri, runs=runs[:2])
    assert {run["run_id"] for run in pushed} == set(runs[:2])
    assert server.client.get_run(pushed[0]["copy_id"]).data.metrics["model/params"] == 4
    assert [run["outcome"] for run in touchstone.sync(to=server.uri, runs=runs[:1])] == ["already up to date"]
    with pytest.raises(UserError, match="would be synced to itself"):
        touchstone.sync(to=open_store().uri)
