"""A loss that is no number stops the run, and the message says where."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.task.nan_guard import NanDetector, NanGuard

WILD = ("data=digits", "model=mlp", "optimizer=sgd", "optimizer.lr=1e30", "data.batch_size=16")


@pytest.mark.parametrize("way", ["steps_per_call=auto", "steps_per_call=1"])
def test_a_loss_that_is_no_number_stops_training_and_names_step_rate_and_samples(
    build_run: Callable[..., Any], way: str
) -> None:
    run = build_run(*WILD, way, "trainer.log_every_n_steps=100")
    with pytest.raises(UserError, match=r"The loss is (nan|inf) at step \d+ \(lr=1e\+30\)") as caught:
        run.trainer.fit(run.task, datamodule=run.data)
    step = int(re.findall(r"at step (\d+)", str(caught.value))[0])
    sampler = run.data.train_dataloader().sampler
    sampler.chunk = 1
    samples = list(sampler)[step].tolist()
    assert f"Samples of the batch: {', '.join(map(str, samples))}." in str(caught.value)
    assert not any(name.startswith("val/") for _, name, _ in run.points)  # broken weights are not measured


def test_both_ways_name_the_same_step(build_run: Callable[..., Any]) -> None:
    messages = []
    for way in ("steps_per_call=auto", "steps_per_call=1"):
        run = build_run(*WILD, way)
        with pytest.raises(UserError) as caught:
            run.trainer.fit(run.task, datamodule=run.data)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_the_watch_names_the_first_bad_step_of_its_window() -> None:
    watch = NanGuard(window=3)
    index = torch.arange(30)
    watch.record(0, torch.tensor(1.0), index, 0.1)
    watch.record(1, torch.tensor(torch.inf), index, 0.1)
    with pytest.raises(UserError, match=r"inf at step 1 .*: 0, 1, .*, 19 … \(30 samples\)"):
        watch.record(2, torch.tensor(torch.nan), index, 0.1)
    watch.check()  # what was told is not told again


def test_anomaly_detection_names_step_and_layer(build_run: Callable[..., Any]) -> None:
    run = build_run(*WILD, callbacks=(NanDetector(),))
    assert run.task.steps_per_call == 1
    with pytest.raises(UserError, match=r"Step [1-9]\d*: the output of model\.\S+ \(\w+\) is not finite"):
        run.trainer.fit(run.task, datamodule=run.data)


def test_anomaly_detection_names_the_parameter_whose_gradient_is_not_finite(
    build_run: Callable[..., Any],
) -> None:
    run = build_run("data=digits", "model=mlp", "debug=anomaly")

    class InfiniteSlope(torch.nn.Module):
        def forward(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return (logits - logits.detach()).abs().sqrt().mean()  # 0, with a slope of 1 / 0

    run.task.loss = InfiniteSlope()
    with pytest.raises(UserError, match=r"Step 0: the gradient of model\.\S*bias is not finite"):
        run.trainer.fit(run.task, datamodule=run.data)


def test_anomaly_detection_leaves_no_hook_behind(fit: Callable[..., Any]) -> None:
    run = fit("data=digits", "model=mlp", callbacks=(NanDetector(),))
    assert not any(module._forward_hooks for module in run.task.modules())
