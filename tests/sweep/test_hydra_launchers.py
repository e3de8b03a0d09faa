"""Hydra's own launchers and sweepers start runs, or are rejected with what to use instead."""

from collections.abc import Callable
from typing import Any

import pytest

WORDS = ("seed=0,1", "trainer.max_epochs=1", "data.per_class=5", "model=linear", "tracking.system_metrics_s=null",
         "tracking.pictures=false", "callbacks.progress=null", "callbacks.summary=null")  # fmt: skip
# words -> runs in the store: those of the seeds, and our sweepers' own
WORKING = {("hydra/sweeper=basic", "hydra/launcher=basic"): 2}
REJECTED = {("hydra/launcher=basic",): "omit hydra/launcher", ("hydra/sweeper=basic",): "use hydra/launcher=basic"}


@pytest.mark.slow
@pytest.mark.parametrize("words", WORKING, ids=" ".join)
def test_it_starts_a_run_for_each_value(words: tuple[str, ...], command: Callable[..., Any], store: Any) -> None:
    done = command("train.py", "-m", *words, *WORDS)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = store.client.search_runs([experiment.experiment_id for experiment in store.client.search_experiments()])
    assert [run.info.status for run in runs] == ["FINISHED"] * WORKING[words]
    assert sorted(run.data.params["seed"] for run in runs if "seed" in run.data.params)[-2:] == ["0", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("words", REJECTED, ids=" ".join)
def test_it_is_rejected_with_what_to_use(words: tuple[str, ...], command: Callable[..., Any]) -> None:
    done = command("train.py", "-m", *words, *WORDS)
    assert done.returncode == 1
    assert REJECTED[words] in done.stderr and "Traceback" not in done.stderr
