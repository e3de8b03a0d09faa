"""The slowest rank is logged each epoch and named in one warning."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.config.errors import UserError
from lightning_modules.strategy.comm_stats import slowest_rank
from lightning_modules.tracking.artifacts import artifact_path

SMALL = ("trainer=ddp", "callbacks=last", "tracking.pictures=false", "data.batch_size=8")
SLOW = (
    "+callbacks.slow._target_=failing_rank_callbacks.SlowRank",
    "+callbacks.slow.seconds=0.15",
)  # much, so that a busy machine changes nothing
WARNED = re.compile(r"rank (\d) needs (\S+) ms for a batch, (\S+) times as long as the others \((\S+) ms\)")


@pytest.fixture(autouse=True)
def callbacks_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1]))


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "rank"), [("ddp", 0), ("ddp", 1), ("local_sgd", 1), ("fsdp2", 0)])
def test_the_slow_rank_is_logged_each_epoch_and_reported_once(
    store: Any, train: Callable[..., Any], strategy: str, rank: int
) -> None:
    words = () if strategy == "ddp" else (f"strategy={strategy}", "decay_norms_and_biases=false")
    run = train(*SMALL, *SLOW, f"+callbacks.slow.rank={rank}", *words)
    metrics = run.data.metrics
    assert metrics["comm/slowest_rank"] == rank
    assert metrics["comm/slowest_ratio"] > 2
    (told,) = WARNED.findall(artifact_path(store, run, "log.txt").read_text())
    assert len(store.client.get_metric_history(run.info.run_id, "comm/slowest_ratio")) == 2
    assert told[0] == str(rank)
    assert float(told[1]) > 50
    assert float(told[1]) > 2 * float(told[3])


@pytest.mark.slow
def test_how_slow_is_too_slow_can_be_said(store: Any, train: Callable[..., Any]) -> None:
    run = train(*SMALL, *SLOW, "+strategy.slow_ratio=1e6", "trainer.max_epochs=1")
    folder = artifact_path(store, run, "config/config.yaml").parents[1]
    assert not any(WARNED.findall(file.read_text()) for file in folder.glob("log.txt"))
    with pytest.raises(UserError, match=r"strategy\.slow_ratio=1: expected more than 1$"):
        train(*SMALL, "+strategy.slow_ratio=1")


def test_the_slowest_is_compared_with_the_median_of_the_others() -> None:
    assert slowest_rank([1.0, 4.0]) == (1, 4.0)
    assert slowest_rank([6.0, 1.0, 2.0, 3.0]) == (0, 3.0)
