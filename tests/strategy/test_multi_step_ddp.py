"""Ranks of DDP may take many steps in one call, as one process does, and end at the same weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.data.batch_sampler import BatchSampler
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.rerun import metric_histories
from lightning_modules.tracking.resume import best_checkpoint
from lightning_modules.zoo.data.image_datasets import Digits

RANKS = ("trainer=ddp", "model=convnet", "model.channels=[8]", "callbacks=last", "tracking.pictures=false",
         "data.batch_size=8", "trainer.log_every_n_steps=1", "scheduler=cosine")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "ddp_fp16"])
def test_many_steps_a_call_give_the_weights_and_the_record_of_one(
    strategy: str, store: Any, train: Callable[..., Any]
) -> None:
    runs = [train(*RANKS, f"strategy={strategy}", f"steps_per_call={steps}") for steps in (1, 3)]
    one, many = (read_checkpoint(best_checkpoint(store, run))["state_dict"] for run in runs)
    assert all(torch.equal(one[name], many[name]) for name in one)
    first, second = (metric_histories(store, run.info.run_id) for run in runs)
    for name in ("train/loss", "train/accuracy", "val/loss", "test/loss"):
        assert first[name] == second[name]
    if strategy != "ddp":  # there the buffers of batch norm count, which go once a call
        assert abs(runs[0].data.metrics["comm/bytes"] / runs[1].data.metrics["comm/bytes"] - 1) < 0.3
    assert runs[1].data.metrics["comm/slowest_ratio"] >= 1


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shares", [1, 2, 3])
def test_the_steps_of_an_epoch_are_those_of_each_ranks_batches(shares: int, drop_last: bool) -> None:
    data = Digits(batch_size=7, drop_last=drop_last)
    data.setup()
    order = BatchSampler(data.splits["train"], 7, drop_last=drop_last, rank=0, world_size=shares)
    assert data.steps_per_epoch(shares) == len(list(order))


def test_ranks_take_many_steps_a_call_where_nothing_needs_each(train: Callable[..., Any]) -> None:
    metrics = train(*RANKS, "strategy.broadcast_buffers=false").data.metrics
    assert metrics["comm/bytes"] == 4 * metrics["model/params"]


@pytest.mark.parametrize("strategy", ["local_sgd", "zero1", "fsdp2", "ddp_topk"])
def test_strategies_that_act_on_single_steps_refuse_many(strategy: str, train: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"^steps_per_call=5: \w+ acts on single steps; set steps_per_call=1$"):
        train(*RANKS, f"strategy={strategy}", "steps_per_call=5")
