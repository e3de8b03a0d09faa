"""Local steps as the command line asks for them, and as the record shows them."""

from collections.abc import Callable
from typing import Any

import pytest

from lightning_modules.config.errors import UserError
from lightning_modules.reproduction.discovery import claim_files
from lightning_modules.reproduction.lint import lint
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.rerun import metric_histories
from lightning_modules.tracking.resume import best_checkpoint

LOOP = ("trainer.devices=2", "model=mlp", "data.batch_size=16", "callbacks.last.every_s=0", "tracking.pictures=false")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["diloco", "async_averaging"])
def test_the_mean_of_the_ranks_is_validated_saved_and_tested(
    store: Any, train: Callable[..., Any], strategy: str
) -> None:
    run = train(*LOOP, f"strategy={strategy}", "strategy.period=2")
    assert run.data.params["strategy.period"] == "2"
    assert run.data.metrics["test/accuracy"] > 0.2
    sent = [value for _, value in metric_histories(store, run.info.run_id)["comm/bytes"]]
    state = read_checkpoint(best_checkpoint(store, run))["state_dict"]
    whole = 4 * sum(value.numel() for key, value in state.items() if key.startswith("model."))
    assert 0.2 * whole < sent[0] < 0.6 * whole  # an epoch has few steps: 0.5, or a share of it


def test_a_mistake_is_reported_before_anything_is_recorded(train: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"strategy.period=0"):
        train(*LOOP, "strategy=local_sgd", "strategy.period=0")
    with pytest.raises(UserError, match=r"trainer.sync_batchnorm"):
        train(*LOOP, "strategy=local_sgd", "trainer.sync_batchnorm=true")


@pytest.mark.slow
@pytest.mark.parametrize("claim", [name for name in claim_files() if name.startswith("distributed/local_sgd")])
def test_a_claim_of_this_room_can_be_judged(claim: str) -> None:
    assert lint(claim) == []
