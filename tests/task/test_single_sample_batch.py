"""A last batch of one sample, which batch norm over samples cannot be trained on, is left out and reported."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lightning_modules.config.errors import UserError
from lightning_modules.data.batch_sampler import BatchSampler


class Net(nn.Sequential):
    """A hidden layer with batch norm over the samples."""

    def __init__(self, input_shape: list[int], num_outputs: int) -> None:
        width = int(torch.tensor(input_shape).prod())
        super().__init__(nn.Flatten(), nn.Linear(width, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, num_outputs))


NORM = ("data=digits", "model=linear", "~model.hidden", f"model._target_={__name__}.Net")
SAID = "train: 1 of 120 samples are left out of each epoch: they would be a last batch of one sample"


@pytest.mark.parametrize("way", ["steps_per_call=3", "steps_per_call=1"])
def test_it_is_left_out_in_both_ways_around_the_batches(
    fit: Callable[..., Any], capsys: pytest.CaptureFixture[str], way: str
) -> None:
    run = fit(*NORM, "data.batch_size=17", way, "scheduler=cosine")  # 120 = 7 * 17 + 1
    assert run.data.steps_per_epoch() == 7 and run.trainer.global_step == 14
    assert capsys.readouterr().err.count(SAID) == 1
    assert next(layer for layer in run.task.modules() if isinstance(layer, nn.BatchNorm1d)).num_batches_tracked == 14


@pytest.mark.slow
def test_it_is_trained_on_where_each_sample_has_several_values_or_there_is_no_batch_norm(
    fit: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for model in ("model=convnet", "model=mlp"):
        run = fit("data=digits", model, "data.batch_size=17", "trainer.max_epochs=1")
        assert run.trainer.global_step == 8
    assert "left out" not in capsys.readouterr().err


def test_batches_of_one_sample_are_refused(build_run: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"data\.batch_size=1: the network has a batch norm, .* use at least 2"):
        build_run(*NORM, "data.batch_size=1")


@pytest.mark.slow
def test_every_rank_leaves_it_out(
    store: Any, train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "tests")
    words = ("data.per_class=11", "data.batch_size=6", "trainer=ddp", "trainer.max_epochs=1", "callbacks=last")
    run = train(*NORM, *words)  # 110 samples, 55 a rank
    assert [p.step for p in store.client.get_metric_history(run.info.run_id, "train/accuracy")] == [9]
    assert capfd.readouterr().err.count("train: 2 of 110 samples are left out of each epoch") == 1


@pytest.mark.parametrize(
    ("size", "world_size", "kept", "dropped"), [(7, 1, 6, 1), (14, 2, 6, 2), (13, 2, 6, 1), (8, 1, 8, 0)]
)
def test_the_samples_that_are_left_out_are_counted(size: int, world_size: int, kept: int, dropped: int) -> None:
    order = BatchSampler(torch.arange(size), 3, world_size=world_size, drop_single=True)
    assert (order.num_samples, order.num_dropped) == (kept, dropped)
    assert [len(batch) for batch in order] == [3, 3, 2][: len(order)]


def test_the_samples_of_a_window_of_batches_are_counted() -> None:
    order = BatchSampler(torch.arange(20), 8)
    assert [order.samples_in(first, end) for first, end in ((0, 2), (2, 3), (0, 3))] == [16, 4, 20]
