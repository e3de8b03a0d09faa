"""Ways of training that are equal: what the claims compare sees a difference, and there is none."""

from collections.abc import Callable
from typing import Any

import pytest

from lightning_modules.config.check import check_config
from lightning_modules.config.command_line import compose_run
from lightning_modules.reproduction.compose import compose_claim
from lightning_modules.reproduction.discovery import claim_files

CLAIMS = [name for name in claim_files() if "_equals_" in name and name.startswith("distributed/")]
SHORT = (
    "trainer.max_steps=20", "tracking.system_metrics_s=null", "tracking.pictures=false", "~callbacks.progress",
    "~callbacks.summary",
)  # fmt: skip
QUICK = ("distributed/ddp_equals_one_process_sgd",)  # tests/strategy has FSDP2 and the pipeline
WHOLE = ("tensor_parallel", "pipeline")  # strategies whose ranks see the same samples


@pytest.mark.parametrize("name", CLAIMS)
def test_both_arms_are_checked_and_see_as_many_samples_in_each_of_100_steps(name: str) -> None:
    samples = set()
    for arm in compose_claim(name).claim.arms:
        cfg = compose_run([f"experiment={name}", *arm.overrides])
        check_config(cfg)
        shares = 1 if cfg.choices.get("strategy") in WHOLE else cfg.trainer.devices
        samples.add(cfg.data.batch_size * shares * cfg.trainer.accumulate_grad_batches)
        assert (cfg.trainer.max_steps, cfg.trainer.precision) == (100, "64-true")
    assert len(samples) == 1


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CLAIMS])
def test_both_arms_end_at_the_same_weights(name: str, train: Callable[..., Any]) -> None:
    claim = compose_claim(name).claim
    assert claim.tolerance is not None
    values = [
        train(f"experiment={name}", *arm.overrides, *SHORT, quick=False).data.metrics[claim.metric]
        for arm in claim.arms
    ]
    assert abs(values[0] - values[1]) <= claim.tolerance.value / 100


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=[pytest.mark.slow, pytest.mark.long]) for n in CLAIMS]
)
def test_other_batches_end_at_other_weights(name: str, train: Callable[..., Any]) -> None:
    claim = compose_claim(name).claim
    assert claim.tolerance is not None
    first, other = (
        train(f"experiment={name}", *arm, *SHORT, quick=False).data.metrics[claim.metric]
        for arm in (claim.arms[0].overrides, ["data.batch_size=61"])
    )
    assert abs(first - other) > 100 * claim.tolerance.value
