"""Ranks divide the samples of any loader, count each once when they evaluate, and reject what they would all train on."""

from collections.abc import Callable
from typing import Any

import loader_modules
import pytest

from lightning_modules.config.errors import UserError

QUIET = (
    "tracking.system_metrics_s=null",
    "tracking.pictures=false",
    "callbacks.progress=null",
    "callbacks.summary=null",
)


@pytest.fixture
def on_two_ranks(train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "loader_modules,user_modules")

    def launch(kind: str, evaluated: str = "plain", *more: str) -> dict[str, float]:
        words = ["task=lightning_module", "task._target_=loader_modules.Counter", "data=lightning_datamodule"]
        words += ["data._target_=loader_modules.Loaders", f"+data.kind={kind}", f"+data.evaluated={evaluated}", *QUIET]
        words += ["strategy=ddp", "strategy.timeout_s=20", "trainer.devices=2", "trainer.max_epochs=1", *more]
        run = train(*words, quick=False)
        return run.data.metrics

    return launch


def sums(*parts: str) -> dict[str, float]:
    counts = {part: loader_modules.COUNTS[part] for part in parts}
    return {
        **{f"{part}_count": count for part, count in counts.items()},
        **{f"{part}_sum": count * (count - 1) / 2 for part, count in counts.items()},
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "evaluated"),
    [("batch_sampler", "batch_sampler"), ("distributed", "distributed"), ("sized", "stream")],
)
def test_ranks_divide_the_samples_and_evaluate_each_once(kind: str, evaluated: str, on_two_ranks: Any) -> None:
    found = on_two_ranks(kind, evaluated)
    expected = sums("train", "val", "test")
    assert {name: found[name] for name in expected} == expected


@pytest.mark.slow
def test_an_epoch_of_streams_of_different_length_ends_with_the_shorter_one(on_two_ranks: Any) -> None:
    assert on_two_ranks("uneven")["train_count"] == 64


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "evaluated", "message"),
    [
        ("distributed_alone", "plain", "All ranks get the same batches"),
        ("own_batches", "plain", "inject a .distributed. sampler into your batch sampler"),
        ("shuffled", "undivided", "All ranks get the same batches"),
    ],
)
def test_what_all_ranks_would_get_is_rejected(kind: str, evaluated: str, message: str, on_two_ranks: Any) -> None:
    with pytest.raises(UserError, match=message):
        on_two_ranks(kind, evaluated)


@pytest.mark.slow
def test_a_network_of_any_module_is_sharded_and_one_without_a_name_is_rejected(on_two_ranks: Any) -> None:
    found, expected = on_two_ranks("shuffled", "plain", "strategy=fsdp2"), sums("train", "val", "test")
    assert {name: found[name] for name in expected} == expected
    with pytest.raises(UserError, match="FSDP2 shards the network in the attribute 'model' of the task, which GAN"):
        on_two_ranks(
            "shuffled", "plain", "strategy=fsdp2", "task._target_=user_modules.GAN", "data._target_=user_modules.Points",
            "~data.kind", "~data.evaluated",
        )  # fmt: skip
