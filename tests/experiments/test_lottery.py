"""The lottery claims: what they are composed of, and that each arm is the training that its name says."""

from collections.abc import Callable
from typing import Any

import pytest

from lightning_modules.compression.pruning.lottery import iterative_sparsity
from lightning_modules.compression.run_compression import RunCompression
from lightning_modules.config.check import check_config
from lightning_modules.config.command_line import compose_run
from lightning_modules.reproduction.compose import compose_claim
from lightning_modules.reproduction.discovery import claim_files
from lightning_modules.run import build
from lightning_modules.run.data_adapter import RunData

CLAIMS = [name for name in claim_files() if name.startswith("lottery_mnist1d/")]


@pytest.mark.parametrize("name", CLAIMS)
def test_every_arm_is_checked_and_takes_1520_steps_a_round_from_all_samples(name: str) -> None:
    for arm in compose_claim(name).claim.arms:
        cfg = compose_run([f"experiment={name}", *arm.overrides])
        check_config(cfg)
        assert cfg.trainer.max_epochs == cfg.compression.stages.prune.epochs == 38
        assert cfg.data.watch_test and cfg.data.order == "sequential" and cfg.data.batch_size == 100


@pytest.mark.slow
def test_the_arms_of_each_network_are_built_and_their_stages_suit_it() -> None:
    seen = set()
    for name in CLAIMS:
        for arm in compose_claim(name).claim.arms:
            if arm.overrides in seen:
                continue
            seen.add(arm.overrides)
            cfg = compose_run([f"experiment={name}", *arm.overrides])
            data = build.build_data(cfg)
            build.infer_shapes(cfg, data)
            task = build.build_task(cfg, data, build.build_callbacks(cfg))
            stage = RunCompression(cfg, task, RunData(data, {}), {}, "").recipe.after[0]
            assert sum(p.numel() for p in task.model.parameters()) == 41 * 500 + 501 * 500 + 501 * 10
            assert stage.rounds == (1 if arm.name in ("dense", "random") else 13 if "80" in name else 15)
    assert len(seen) == 4


def test_the_run_to_80_percent_takes_the_steps_of_the_run_to_92() -> None:
    sparsities = [iterative_sparsity(13, 15, 0.9192, "equal"), iterative_sparsity(13, 13, 0.798, "equal")]
    assert sparsities == pytest.approx([0.798, 0.798], abs=0.002)


@pytest.mark.parametrize("name", [name for name in CLAIMS if "minus" in name])
def test_a_difference_is_that_of_the_runs_of_its_arms(name: str) -> None:
    claim = compose_claim(name).claim
    first, second = (arm.runs for arm in claim.arms)
    assert claim.runs == pytest.approx([a - b for a, b in zip(first, second, strict=True)])
    assert (claim.metric == "ticket/test/accuracy") == name.endswith("_last")


SHORT = (
    "experiment=lottery_mnist1d/order_92_last", "trainer.max_epochs=2", "tracking.system_metrics_s=null",
    "tracking.pictures=false", "~callbacks.progress", "~callbacks.summary", "model.hidden=[20,20]",
)  # fmt: skip


@pytest.mark.slow
def test_the_dense_arm_is_the_first_training_again(train: Callable[..., Any]) -> None:
    metrics = train(*SHORT, *compose_claim(CLAIMS[0]).claim.arms[1].overrides, quick=False).data.metrics
    assert metrics["lottery/sparsity"] == 0
    assert metrics["ticket/test/accuracy"] == metrics["dense/test/accuracy"]


@pytest.mark.slow
def test_the_random_arm_trains_once_with_as_many_zeros(train: Callable[..., Any]) -> None:
    arm = next(arm for arm in compose_claim("lottery_mnist1d/order_92").claim.arms if arm.name == "random")
    metrics = train(*SHORT, *arm.overrides, quick=False).data.metrics
    assert metrics["lottery/sparsity"] == pytest.approx(0.9192, abs=1e-3)
    assert metrics["ticket/test/accuracy"] == pytest.approx(metrics["compressed/test/accuracy"])
