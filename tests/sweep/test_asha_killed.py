"""A search with ASHA that is killed between two rungs prunes the trials that it would have pruned."""

from pathlib import Path
from typing import Any

import pytest
from interrupted import QUICK, gate

from lightning_modules.tracking.rerun import metric_histories

TRIALS, RUNGS = 6, (1, 2, 4)


@pytest.mark.slow
def test_asha_killed_in_the_middle_of_a_rung_prunes_the_same_trials(
    sweep: Any, launch: Any, place: Path, store: Any
) -> None:
    words = (
        *QUICK, "hydra/sweeper=optuna", "optimizer=sgd", "optimizer.lr=tag(log,interval(1e-9,1))", f"search.trials={TRIALS}",
        "+search.sampler_options.n_startup_trials=3", "search.pruner=asha", "+search.pruner_options.min_resource=1",
        "+search.pruner_options.reduction_factor=2", *gate(place, 3),
    )  # fmt: skip
    command = launch(*words, "sweep=cut")
    command.waiting(place, 1)  # after three epochs: the second rung has its value, the third has none
    for process in command.left():
        process.kill()
    command.ends()
    (place / "open").touch()
    gone_on = sweep(*words, "sweep.name=cut", quick=False)
    attempts = len(list(place.glob("*.waits")))
    assert gone_on.code == 0, gone_on.said
    epochs = [len(metric_histories(store, child.run_id)["val/loss"]) for child in gone_on.children]
    assert attempts == 1 + sum(count > 3 for count in epochs)  # only the killed trial came there twice
    condition = f"tags.`mlflow.parentRunId` = '{gone_on.parent.info.run_id}'"
    assert len(list(store.search_runs(condition))) == TRIALS
    whole = sweep(*words, "sweep.name=whole", quick=False)
    assert "PRUNED" in {child.status for child in whole.children}
    for ours, theirs, count in zip(gone_on.children, whole.children, epochs, strict=True):
        assert (ours.params, ours.status) == (theirs.params, theirs.status)
        assert metric_histories(store, ours.run_id) == metric_histories(store, theirs.run_id)
        assert count in (RUNGS[:2] if ours.status == "PRUNED" else RUNGS[2:])
