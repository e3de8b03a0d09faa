"""Searches as a user runs them: Optuna proposes, the store remembers, and a cut changes nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.tracking.artifacts import local_folder

Sweep = Callable[..., Any]
OPTUNA = ("hydra/sweeper=optuna", "optimizer.lr=tag(log,interval(1e-4,1e-1))", "data.batch_size=16,32")


def params(done: Any) -> list[dict[str, Any]]:
    return [child.params for child in done.children]


def test_a_search_asks_optuna_and_records_each_trial_below_one_parent(sweep: Sweep, store: Any) -> None:
    done = sweep(*OPTUNA, "search.trials=4", "sweep.jobs=2", "sweep.name=found")
    assert done.code == 0, done.said
    assert [child.status for child in done.children] == ["FINISHED"] * 4
    assert json.loads(done.parent.data.tags["sweep.objectives"]) == {"val/accuracy": "maximize"}
    assert {child.params["data.batch_size"] for child in done.children} <= {16, 32}
    for child in done.children:
        run = store.client.get_run(child.run_id)
        assert float(run.data.params["optimizer.lr"]) == child.params["optimizer.lr"]
    best = max(child.values["val/accuracy"] for child in done.children)
    assert done.parent.data.tags["sweep.best_name"] in [
        c.name for c in done.children if c.values["val/accuracy"] == best
    ]


@pytest.mark.slow
def test_a_search_that_was_cut_off_asks_what_the_whole_one_asks(sweep: Sweep) -> None:
    whole = sweep(*OPTUNA, "search.trials=5", "+search.sampler_options.n_startup_trials=2", "sweep.name=whole")
    cut = sweep(*OPTUNA, "search.trials=3", "+search.sampler_options.n_startup_trials=2", "sweep.name=cut")
    assert len(cut.children) == 3
    gone_on = sweep(*OPTUNA, "search.trials=5", "+search.sampler_options.n_startup_trials=2", "sweep.name=cut")
    assert gone_on.code == 0, gone_on.said
    assert params(gone_on) == params(whole)
    assert [c.run_id for c in gone_on.children[:3]] == [c.run_id for c in cut.children]


@pytest.mark.slow
def test_a_pruned_trial_is_marked_so_in_store_and_study(sweep: Sweep, store: Any) -> None:
    words = ("hydra/sweeper=optuna", "search.sampler=grid", "optimizer=sgd", "optimizer.lr=0.5,0.2,0.1,1e-9,1e-8,1e-7")
    done = sweep(
        *words, "search.pruner=median", "+search.pruner_options.n_startup_trials=2", "trainer.max_epochs=6", "search.seed=1",
        "sweep.name=pruned", "data.per_class=40",
    )  # fmt: skip
    assert done.code == 0, done.said
    pruned = [child for child in done.children if child.status == "PRUNED"]
    assert 1 <= len(pruned) <= 4
    run = store.client.get_run(pruned[0].run_id)
    assert (run.info.status, run.data.tags["touchstone.ended"]) == ("KILLED", "PRUNED")
    assert "test/accuracy" not in run.data.metrics
    assert done.parent.data.tags["sweep.pruned"] == str(len(pruned))
    assert len(sweep(*words, "search.pruner=median", "+search.pruner_options.n_startup_trials=2", "trainer.max_epochs=6",
                     "search.seed=1", "sweep.name=pruned", "data.per_class=40").children) == 6  # fmt: skip


@pytest.mark.slow
def test_several_objectives_give_a_front(sweep: Sweep) -> None:
    done = sweep(
        "hydra/sweeper=optuna", "search=pareto", "search.trials=5", "callbacks=latency", "sweep.name=front",
        "+search.objectives={val/accuracy: maximize, model/size_bytes: minimize, model/latency_ms: minimize}",
        "trainer.max_epochs=1", "data.per_class=10", "tracking.system_metrics_s=null", quick=False,
    )  # fmt: skip
    assert done.code == 0, done.said
    assert all(child.values["model/latency_ms"] > 0 for child in done.children)
    sizes = {child.params["model"]: child.values["model/size_bytes"] for child in done.children}
    assert len(set(sizes.values())) == len(sizes)
    folder = local_folder(done.parent.info.artifact_uri)
    assert folder is not None
    assert (folder / "sweep" / "pareto.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_trial_without_a_value_fails_in_the_study_and_the_search_goes_on(sweep: Sweep) -> None:
    done = sweep(
        "hydra/sweeper=optuna", "optimizer=sgd", "optimizer.lr=1e38,1e-2", "search.sampler=grid", "sweep.retries=0"
    )
    assert done.code == 0, done.said  # in a search, trials that fail are nothing out of the ordinary
    assert sorted(child.status for child in done.children) == ["FAILED", "FINISHED"]


@pytest.mark.slow
def test_a_trial_whose_objective_is_not_defined_fails_with_the_reason_and_is_never_the_best(
    sweep: Sweep, tmp_path: Path
) -> None:
    """R squared of a validation part of one sample."""
    file = tmp_path / "tiny.csv"
    file.write_text("x,y\n" + "".join(f"{i},{i * 1.5 + i % 3}\n" for i in range(12)))
    done = sweep(
        "hydra/sweeper=optuna", "search.sampler=grid", "data.val_fraction=0.1,0.3", "sweep.retries=0", "sweep.jobs=2",
        "data=tabular", "data.name=null", f"data.path={file}", "data.target=y", "task=regression", "model=linear",
        "task.monitor.metric=val/r2", "trainer.max_epochs=1", "tracking.system_metrics_s=null", "tracking.pictures=false",
        "~callbacks.summary", quick=False,
    )  # fmt: skip
    assert done.code == 0, done.said
    of = {child.params["data.val_fraction"]: child for child in done.children}
    assert (of[0.1].status, of[0.1].values) == ("FAILED", {"val/r2": None})
    assert of[0.1].error == "the objective val/r2 has no finite value on this data"
    assert of[0.3].status == "FINISHED" and done.parent.data.tags["sweep.best_name"] == of[0.3].name


BAD = {
    ("optimizer.lrr=interval(0,1)",): "did you mean 'lr'",
    ("optimizer.lr=interval(1,1)",): "optimizer.lr",
    ("search=classification", "search.sampler=tpee"): "did you mean 'tpe'",
    ("search=classification", "search.sampler=cmaes"): "data.batch_size",
    (): "the search space is empty",
    ("search=classification", "+search.objectives={val/accuracy: up}"): "maximize",
    ("search=pareto", "search.pruner=asha"): "search.pruner=none",
    ("search=classification", "task.monitor.mode=min"): "task.monitor.mode=min: a higher 'val/accuracy' is better",
}


@pytest.mark.parametrize("words", BAD, ids=" ".join)
def test_a_mistake_in_the_search_is_told_before_anything_is_recorded(sweep: Sweep, words: tuple[str, ...]) -> None:
    done = sweep("hydra/sweeper=optuna", *words)
    assert done.code == 1
    assert BAD[words] in done.said
    assert "Traceback" not in done.said
    assert done.parent is None


@pytest.mark.slow
def test_a_journal_of_another_space_is_refused_with_the_difference(sweep: Sweep, store: Any) -> None:
    done = sweep("hydra/sweeper=optuna", "optimizer.lr=interval(0.01,0.1)", "search.trials=1", "sweep.name=space")
    assert done.code == 0, done.said
    store.client.delete_run(done.parent.info.run_id)  # only the journal is left to tell
    other = sweep("hydra/sweeper=optuna", "optimizer.lr=interval(0.01,0.2)", "search.trials=1", "sweep.name=space")
    assert other.code == 1
    assert "another space" in other.said
    assert "optimizer.lr" in other.said


@pytest.mark.slow
def test_an_objective_that_no_run_logs_is_told_after_the_first_trial(sweep: Sweep) -> None:
    done = sweep(
        "hydra/sweeper=optuna",
        "optimizer.lr=0.1,0.01",
        "+search.objectives={val/acuracy: maximize}",
        "sweep.name=metric",
    )
    assert done.code == 1
    assert "val/acuracy" in done.said
    assert "val/accuracy" in done.said
    assert len(done.children) == 1
