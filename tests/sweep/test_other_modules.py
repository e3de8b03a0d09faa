"""A search over a LightningModule and a datamodule of the user's own: its own hyper-parameters, its own metric, pruning."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import service_modules

WORDS = (
    "hydra/sweeper=optuna", "task=lightning_module", "task._target_=service_modules.ImageTask",
    "data=lightning_datamodule", "data._target_=service_modules.Images", "callbacks.summary=null",
    "tracking.system_metrics_s=null", "tracking.pictures=false",
    "task.monitor={metric: val_loss, mode: min}", "trainer.max_epochs=3",
)  # fmt: skip


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(str(service_modules.__file__)).parent), prepend=os.pathsep)
    monkeypatch.setenv("TOUCHSTONE_TRUST", "service_modules")


@pytest.mark.slow
@pytest.mark.parametrize(("pruner", "pruned"), [("median", 2), ("asha", 3)])
def test_a_search_over_a_module_prunes_by_the_metric_that_it_logs(
    sweep: Callable[..., Any], store: Any, pruner: str, pruned: int
) -> None:
    options = {"median": "{n_startup_trials: 2}", "asha": "{min_resource: 1, reduction_factor: 2}"}[pruner]
    rates = ("search.sampler=grid", "+task.lr=1.0,0.5,1e-7,1e-8", "+data.batch_size=4")
    done = sweep(*WORDS, *rates, f"search.pruner={pruner}", f"+search.pruner_options={options}", quick=False)
    assert done.code == 0, done.said
    runs = {child.status: [] for child in done.children}
    for child in done.children:
        runs[child.status].append(store.client.get_run(child.run_id).data.metrics["val_loss"])
    assert {status: len(losses) for status, losses in runs.items()} == {"FINISHED": 4 - pruned, "PRUNED": pruned}
    assert min(runs["PRUNED"]) > min(runs["FINISHED"])


@pytest.mark.parametrize("key", ["data.batch_size", "task.lr"])
def test_a_searched_argument_that_the_config_lacks_is_named(sweep: Callable[..., Any], key: str) -> None:
    done = sweep(*WORDS, f"{key}=4,8", quick=False)
    group, name = key.split(".")
    assert done.code == 1
    assert f"{key}: '{group}' has no '{name}'" in done.said and f"+{key}=…" in done.said
    assert "_target_" not in done.said.replace("…", "").partition("choose")[0]
