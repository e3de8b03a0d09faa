"""A run says how many bytes its ranks send, how long they wait, and how many samples they train on in a second."""

from collections.abc import Callable
from typing import Any

import pytest

from lightning_modules.tracking.rerun import metric_histories

SMALL = (
    "trainer=ddp",
    "strategy.broadcast_buffers=false",
    "callbacks=last",
    "tracking.pictures=false",
    "data.batch_size=8",
)


@pytest.mark.slow
def test_ddp_sends_four_bytes_for_each_parameter_and_a_quarter_where_it_gathers_four_batches(
    store: Any, train: Callable[..., Any]
) -> None:
    every = train(*SMALL, "trainer.limit_train_batches=4")
    fourth = train(*SMALL, "trainer.limit_train_batches=4", "trainer.accumulate_grad_batches=4")
    measured = every.data.metrics
    assert measured["comm/bytes"] == 4 * measured["model/params"]
    assert fourth.data.metrics["comm/bytes"] == measured["model/params"]
    assert measured["comm/world_size"] == 2
    assert measured["throughput/samples_per_s"] > 0
    assert measured["comm/time_s"] >= measured["comm/exposed_s"] >= 0
    assert measured["comm/time_s"] > 0
    assert [step for step, _ in metric_histories(store, every.info.run_id)["comm/bytes"]] == [4, 8]


@pytest.mark.slow
def test_half_the_bytes_are_logged_of_a_run_with_sixteen_bits(train: Callable[..., Any]) -> None:
    metrics = train(*SMALL, "strategy=ddp_fp16", "trainer.max_epochs=1").data.metrics
    assert metrics["comm/bytes"] == 2 * metrics["model/params"]
