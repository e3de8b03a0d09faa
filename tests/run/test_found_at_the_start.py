"""Mistakes of another's task that Lightning finds only when a loop runs, named early and with the key to change."""

from typing import Any

import pytest

from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.run.run import run as run_config

QUIET = ("tracking=none", "callbacks.progress=null", "callbacks.summary=null", "trainer.max_epochs=1")
POINTS = "user_modules.Points"


@pytest.fixture(autouse=True)
def trust(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "user_modules")


def fit(task: str, data: str, *overrides: str) -> None:
    words = ["task=lightning_module", f"task._target_=user_modules.{task}"]
    run_config(compose_run([*words, "data=lightning_datamodule", f"data._target_={data}", *QUIET, *overrides]))


@pytest.mark.parametrize("part, name", [("val", "TwoValidationLoaders"), ("test", "TwoTestLoaders")])
def test_several_loaders_need_a_step_that_takes_their_index(part: str, name: str, capsys: Any) -> None:
    step = {"val": "validation", "test": "test"}[part]
    with pytest.raises(
        UserError, match=f"2 {part} loaders, so Classifier.{step}_step needs the argument dataloader_idx"
    ):
        fit("Classifier", f"user_modules.{name}")
    fit("Classifier", f"user_modules.{name}", f"trainer.limit_{part}_batches=0")


def test_loaders_of_the_test_that_do_not_exist_yet_are_mentioned_at_the_start(capsys: Any) -> None:
    with pytest.raises(Exception, match="dataloader_idx"):
        fit("Classifier", "user_modules.TestedLater")
    line = "the number of test loaders is not known yet; several would fail: test_step has no dataloader_idx"
    assert capsys.readouterr().err.count(line) == 1
    fit("TakesTestIndex", "user_modules.TestedLater")
    assert "not known yet" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("callbacks=early_stopping",),
        ("+trainer.val_check_interval=2",),
        ("callbacks=early_stopping", "+trainer.val_check_interval=2"),
    ],
)
def test_a_metric_that_is_not_logged_is_named_after_the_first_validation(overrides: tuple[str, ...]) -> None:
    with pytest.raises(
        UserError, match=r"task.monitor.metric=val_lss: not logged; did you mean 'val_loss'\? logged are:"
    ):
        fit("Classifier", POINTS, "task.monitor={metric: val_lss, mode: min}", *overrides)
