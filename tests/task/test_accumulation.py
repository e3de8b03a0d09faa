"""Gradients accumulated over mini-batches are those of one larger batch, in the last step of an epoch too."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.resume import best_checkpoint

SGD = ("data=digits", "model=linear", "optimizer=sgd", "optimizer.lr=0.05", "task.l2=1e-2")


@pytest.mark.parametrize(
    ("batch_size", "batches", "last"),
    [(16, 3, "two batches of three"), (20, 5, "one batch of five"), (16, 4, "three of four, one of 8 samples")],
)
def test_the_weights_are_those_of_a_larger_batch(
    fit: Callable[..., Any], batch_size: int, batches: int, last: str
) -> None:
    small = fit(*SGD, f"data.batch_size={batch_size}", f"trainer.accumulate_grad_batches={batches}")
    large = fit(*SGD, f"data.batch_size={batch_size * batches}", "steps_per_call=1")
    assert len(small.data.splits["train"]) == 120 and 120 % (batch_size * batches)
    assert small.trainer.global_step == large.trainer.global_step
    for ours, theirs in zip(small.task.parameters(), large.task.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_two_ranks_accumulate_to_the_weights_of_a_larger_batch(store: Any, train: Callable[..., Any]) -> None:
    words = (*SGD, "data.per_class=12", "trainer.max_epochs=2", "callbacks=last")
    two = train(*words, "trainer=ddp", "data.batch_size=8", "trainer.accumulate_grad_batches=3")
    one = train(*words, "data.batch_size=48")
    ours, theirs = (read_checkpoint(best_checkpoint(store, run))["state_dict"] for run in (two, one))
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)
