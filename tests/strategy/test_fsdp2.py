"""Two ranks that hold a part of the model each learn what two ranks with the whole model learn."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lightning_modules.config.errors import UserError
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.rerun import metric_histories
from lightning_modules.tracking.resume import best_checkpoint
from lightning_modules.zoo.strategy.sharded import layers_to_wrap

SMALL = ("data=mnist1d", "model=mlp", "data.per_class=13", "data.drop_last=true", "callbacks=last", "trainer.max_epochs=2",
         "trainer.precision=64-true", "tracking.system_metrics_s=null", "tracking.pictures=false", "data.batch_size=16",
         "~callbacks.progress", "~callbacks.summary", "trainer=ddp")  # fmt: skip


def weights(store: Any, run: Any) -> dict[str, torch.Tensor]:
    return {key: value.double() for key, value in read_checkpoint(best_checkpoint(store, run))["state_dict"].items()}


def max_difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[key] - theirs[key]).abs().max()) for key in theirs)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_fsdp2_gives_the_weights_of_ddp_in_float64(store: Any, train: Callable[..., Any], optimizer: str) -> None:
    words = (*SMALL, f"optimizer={optimizer}", "decay_norms_and_biases=false")  # two groups of parameters
    ddp = train(*words, quick=False)
    fsdp2 = train(*words, "strategy=fsdp2", "strategy.min_params=1000", quick=False)
    assert max_difference(weights(store, fsdp2), weights(store, ddp)) < 1e-12
    for name in ("val/loss", "test/loss", "test/accuracy"):
        assert fsdp2.data.metrics[name] == pytest.approx(ddp.data.metrics[name], abs=1e-6)


@pytest.mark.slow
def test_accumulated_gradients_are_exchanged_once_a_step(store: Any, train: Callable[..., Any]) -> None:
    words = (*SMALL, "trainer.accumulate_grad_batches=2", "optimizer=sgd")
    ddp = train(*words, quick=False)
    fsdp2 = train(*words, "strategy=fsdp2", quick=False)
    assert max_difference(weights(store, fsdp2), weights(store, ddp)) < 1e-12
    size = 8 * ddp.data.metrics["model/params"]
    sent = [value for _, value in metric_histories(store, fsdp2.info.run_id)["comm/bytes"]]
    assert sent[0] == pytest.approx(size / 2 + size / 2)  # half of the weights each time, all gradients every other


def test_penalties_that_need_the_whole_model_are_refused(train: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"task\.l1, task\.l2: no rank has all weights"):
        train(*SMALL, "strategy=fsdp2", "task.l2=0.1", quick=False)


def test_large_members_of_lists_and_sequences_are_gathered_on_their_own() -> None:
    model = nn.Sequential(
        nn.Linear(2, 3), nn.Sequential(nn.Linear(30, 30), nn.ReLU()), nn.ModuleList([nn.Linear(40, 40)])
    )
    assert [part.in_features for part in layers_to_wrap(model, 900)] == [40, 30]
