"""The params of a run are what describes the experiment, and its first metric is a score or a loss."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import QUICK

from lightning_modules.config.command_line import compose_run
from lightning_modules.run.prepare import plain_config
from lightning_modules.run.run import run
from lightning_modules.tracking.params import BOOKKEEPING, default_run_name, experiment_params
from lightning_modules.tracking.store import open_store


@pytest.fixture(scope="module")
def runs(new_store: Callable[[], str]) -> Iterator[list[Any]]:
    """Two small runs that differ in learning rate and seed, read back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", new_store())
        for overrides in (
            ["optimizer.lr=1e-2", "seed=1"],
            ["optimizer.lr=1e-3", "seed=2", "tracking.flush_points=100"],
        ):
            run(compose_run([*QUICK, *overrides]))
        yield list(open_store().search_runs())


def test_runs_differ_in_their_settings_alone_and_the_first_is_the_first_of_the_compare_page(runs: list[Any]) -> None:
    params = [one.data.params for one in runs]
    names = params[0].keys() | params[1].keys()
    assert sorted(name for name in names if params[0].get(name) != params[1].get(name)) == ["optimizer.lr", "seed"]


def test_the_first_stored_metric_is_a_score(runs: list[Any]) -> None:
    for one in runs:
        names = list(one.data.metrics)  # in the order in which the page gets them
        # the loss of training, if the first epoch takes longer than the interval between two writes
        assert names[0] in ("val/accuracy", "val/loss", "train/loss")
        assert names.index("train/loss") < names.index("model/params")


def test_bookkeeping_is_in_the_config_file_only(runs: list[Any]) -> None:
    for one in runs:
        assert not [name for name in one.data.params if BOOKKEEPING.match(name)]
        assert {"data", "model", "optimizer.lr", "callbacks.best.mode", "trainer.max_epochs"} <= one.data.params.keys()


def test_a_seed_of_the_data_that_is_given_is_a_param() -> None:
    config = {"seed": 1, "data": {"seed": 1, "fold": 0}, "name": "x", "choices": {"tracking": "mlflow", "data": "d"}}
    assert experiment_params(config, []) == {"seed": 1, "data.fold": 0, "data": "d"}
    assert experiment_params(config, ["data.seed=1"])["data.seed"] == 1
    assert experiment_params({**config, "seed": 2}, [])["data.seed"] == 1


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "digits-convnet"),
        (["model=mlp", "optimizer.lr=1e-4", "data.fold=0"], "digits-mlp lr=1e-4 fold=0"),
        (["optimizer=sgd", "~callbacks.summary", "+debug.n=2"], "digits-convnet optimizer=sgd n=2"),
        (["tracking.experiment=x", "callbacks.progress=null", "seed=3"], "digits-convnet seed=3"),
        (["name=mine", "seed=3"], "mine"),
        (["name=digits-convnet", "seed=3"], "digits-convnet"),
        (["+debug.api_key=hunter2"], "digits-convnet api_key=***"),
    ],
)
def test_a_run_without_a_name_is_named_after_its_overrides(overrides: list[str], name: str) -> None:
    assert default_run_name(plain_config(compose_run(overrides))) == name


def test_the_run_has_that_name(runs: list[Any]) -> None:
    assert {one.info.run_name.partition(" ")[0] for one in runs} == {"digits-mlp"}
    assert len({one.info.run_name for one in runs}) == 2 and all(" lr=" in one.info.run_name for one in runs)
