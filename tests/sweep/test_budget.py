"""Compression to a budget: what is tried next, when it ends, what is refused, and whole searches through the real machinery."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from interrupted import newest_sweep

from lightning_modules.compression.budget.goal import (
    BITS_KEY,
    KEPT_RATIO_KEYS,
    SPARSITY_KEY,
    Goal,
    Request,
    attempt_overrides,
    make_goal,
    max_bits_without_zeros,
    size_ratio,
    sparsity_for,
    values_for,
)
from lightning_modules.compression.budget.plan import BudgetPlan
from lightning_modules.compression.budget.search import Attempt, best_attempt, propose, suggest
from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.sweep.hydra_plugin import refuse_former_budget
from lightning_modules.sweep.plans import Outcome, Trial
from lightning_modules.sweep.trial_results import best_values, read_trial_results
from lightning_modules.tracking.artifacts import local_folder

SIZE = Goal({"size_ratio": 10.0}, 0.01, "val/accuracy", True, trials=20)
BOTH = Goal({"size_ratio": 20.0, "macs_ratio": 2.0}, 0.01, "val/accuracy", True)
STAGES = (
    "compression.runtimes=[eager]", "compression.stages.prune.epochs=2", "+compression.stages.prune.every=1",
    "compression.stages.share.epochs=0", "sweep.retries=0",
)  # fmt: skip


# --- the estimate --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("ratio", "bits"), [(8, 5), (10, 5), (10, 4), (40, 5), (60, 8)])
def test_the_sparsity_for_a_ratio_gives_that_ratio(ratio: float, bits: int) -> None:
    assert size_ratio(sparsity_for(ratio, bits), bits) == pytest.approx(ratio, rel=0.01)


def test_no_weight_is_pruned_where_few_bits_are_enough() -> None:
    assert sparsity_for(6.0, 5) == 0.0
    assert [max_bits_without_zeros(ratio) for ratio in (1.5, 4.0, 5.0, 10.0)] == [8, 8, 6, 3]


def test_what_attempts_gained_corrects_what_the_next_one_is_asked_for() -> None:
    gains, earlier = 0.0, []
    for _ in range(4):
        values, asked = values_for(SIZE, (1.0, 5), earlier)
        gains = 0.8 * asked["size_ratio"] ** 0.8  # what names and scales leave of it
        earlier.append(Request((1.0, 5), asked, {"size_ratio": gains}))
    assert gains == pytest.approx(10.1, rel=0.005) and values[SPARSITY_KEY] > 0.6


def test_removed_channels_leave_less_to_prune() -> None:
    values, asked = values_for(BOTH, (1.0, 5), [])
    alone, _ = values_for(Goal({"size_ratio": 20.0}, 0.01, "val/accuracy", True), (1.0, 5), [])
    assert values[KEPT_RATIO_KEYS["macs_ratio"]] == pytest.approx(1 / 2.02, abs=1e-3)
    assert 0 < values[SPARSITY_KEY] < alone[SPARSITY_KEY]
    assert asked["size_ratio"] == pytest.approx(20.2, rel=0.01)


def test_an_attempt_is_a_run_from_the_dense_one_with_only_the_stages_that_it_needs() -> None:
    stage_overrides = ["compression.stages.prune.epochs=3"]
    words = attempt_overrides(values_for(SIZE, (1.0, 5), [])[0], "a" * 32, stage_overrides)
    config = compose_run(words)
    assert config.init_from == "a" * 32 and config.trainer.max_epochs == 0
    assert config.compression.stages.structure is None and config.compression.stages.prune.epochs == 3
    assert config.compression.stages.share.bits == 5
    faster = compose_run(attempt_overrides({KEPT_RATIO_KEYS["latency_ratio"]: 0.5}, "a" * 32, []))
    assert faster.compression.stages.structure.latency_ratio == 0.5
    assert [faster.compression.stages[name] for name in ("prune", "share")] == [None, None]
    assert faster.compression.stages.structure.macs_ratio is None


# --- backing off ---------------------------------------------------------------------------------------------
def tried(drop: Callable[[float, int], float], count: int = 15) -> list[Attempt]:
    """What is tried on a network that loses `drop` at (effort, bits)."""
    attempts: list[Attempt] = []
    while (point := propose(attempts, 5, 0.01)) and len(attempts) < count:
        attempts.append(Attempt(point[0], point[1], point[0], drop(*point)))
    return attempts


def test_the_goal_itself_is_tried_first() -> None:
    assert propose([], 5, 0.01) == (1.0, 5)


def test_the_quality_falls_and_other_bits_are_tried_before_less_is_compressed() -> None:
    attempts = tried(lambda effort, bits: 0.02 * effort)
    assert [(a.target, a.bits) for a in attempts[:3]] == [(1.0, 5), (1.0, 4), (1.0, 6)]
    assert attempts[3].target == 0.5


def test_less_is_compressed_until_the_quality_holds() -> None:
    attempts = tried(lambda effort, bits: 0.02 * effort)  # holds up to half of the way
    best = best_attempt(attempts, 0.01)
    assert best is not None and 0.4 <= best.position <= 0.5 and all(a.target <= 1 for a in attempts)
    attempts = tried(lambda effort, bits: 0.01 * effort / 0.8)
    best = best_attempt(attempts, 0.01)
    assert best is not None and 0.7 <= best.position <= 0.8 and len(attempts) <= 8


def test_more_is_compressed_where_there_is_room() -> None:
    attempts = tried(lambda effort, bits: 0.01 * (effort / 1.7) ** 4)
    best = best_attempt(attempts, 0.01)
    assert best is not None and 1.6 <= best.position <= 1.7


def test_other_bits_that_hold_are_gone_on_with() -> None:
    attempts = tried(lambda effort, bits: 0.005 * effort if bits == 4 else 0.02)
    assert [a.bits for a in attempts[1:]] == [4] * (len(attempts) - 1)
    best = best_attempt(attempts, 0.01)
    assert best is not None and 1.8 <= best.position <= 2.0


def test_a_size_that_was_missed_is_aimed_at_again() -> None:
    missed = Attempt(1.0, 5, 0.97, 0.0)
    assert propose([missed], 5, 0.01) == (1.0, 5)
    assert propose([missed] * 3, 5, 0.01) == (1.0, 4)


def test_an_attempt_that_fails_counts_as_one_that_loses_everything() -> None:
    attempts = [Attempt(1.0, 0), Attempt(0.5, 0, 0.5, 0.0)]
    assert propose(attempts[:1], 0, 0.01) == (0.5, 0)
    assert propose(attempts, 0, 0.01) == (0.75, 0)


def test_beside_an_attempt_that_runs_other_bits_are_tried() -> None:
    runs = [Attempt(1.0, 5, is_running=True)]
    assert propose(runs, 5, 0.01) == (1.0, 4)
    assert propose([*runs, Attempt(1.0, 4, is_running=True), Attempt(1.0, 6, is_running=True)], 5, 0.01) is None


# --- the plan ------------------------------------------------------------------------------------------------
def measured(trial: Trial, loses: Callable[[float], float]) -> dict[str, float]:
    """Metrics of a network that is as small as it was estimated and loses `loses` at that ratio."""
    ratio = 0.9 * size_ratio(trial.params[SPARSITY_KEY], trial.params[BITS_KEY])
    return {"compression/ratio": ratio, "dense/val/accuracy": 0.9, "compressed/val/accuracy": 0.9 - loses(ratio)}


def finish(plan: BudgetPlan, trial: Trial, metrics: Mapping[str, float]) -> None:
    plan.tell(trial, Outcome("FINISHED", f"{trial.number:032d}", {}, None, metrics))


def searched(plan: BudgetPlan, loses: Callable[[float], float], count: int = 20) -> list[Trial]:
    asked: list[Trial] = []
    while len(asked) < count and (trial := plan.ask()):
        asked.append(trial)
        finish(plan, trial, measured(trial, loses))
    return asked


def test_a_search_ends_when_so_many_attempts_were_no_better(tmp_path: Path) -> None:
    plan = BudgetPlan(SIZE, "a" * 32, [], tmp_path, "one")
    asked = searched(plan, lambda ratio: 0.0 if ratio < 14 else 0.1)
    best = best_attempt(plan.attempts(), 0.01)
    assert best is not None and 11.5 < 10**best.position < 14
    settled = plan.attempts()
    assert len(asked) == settled.index(best) + 1 + SIZE.patience < SIZE.trials


def test_a_search_that_went_on_asks_for_what_it_would_have_asked_for(tmp_path: Path) -> None:
    def loses(ratio: float) -> float:
        return 0.002 * max(0.0, ratio - 4)

    whole = [t.params for t in searched(BudgetPlan(SIZE, "a" * 32, [], tmp_path / "whole", "one"), loses, 6)]
    parts: list[Trial] = []
    for _ in range(3):
        parts += searched(BudgetPlan(SIZE, "a" * 32, [], tmp_path / "parts", "one"), loses, 2)
    assert [t.params for t in parts] == whole
    again = BudgetPlan(SIZE, "a" * 32, [], tmp_path / "parts", "one")
    assert [t.params for t in again.started()] == whole


def test_the_run_that_a_killed_search_has_under_way_is_begun_again_and_not_asked_for_twice(tmp_path: Path) -> None:
    first = BudgetPlan(SIZE, "a" * 32, [], tmp_path, "one").ask()
    again = BudgetPlan(SIZE, "a" * 32, [], tmp_path, "one")
    assert again.started() == [first]
    beside = again.ask()
    assert first is not None and beside is not None and beside.params[BITS_KEY] != first.params[BITS_KEY]


def test_where_halving_ends_optuna_comes_closer_to_the_limit(tmp_path: Path) -> None:
    def loses(ratio: float) -> float:
        return 0.001 * (ratio - 4)  # 0.01 at 14x

    goal = Goal({"size_ratio": 10.0}, 0.01, "val/accuracy", True, trials=6, patience=6)
    plan = BudgetPlan(goal, "a" * 32, [], tmp_path, "one")
    asked = searched(plan, loses)
    attempts = plan.attempts()
    halved = next(i for i in range(1, 6) if propose(attempts[:i], 5, 0.01) is None)
    best, before = best_attempt(attempts, 0.01), best_attempt(attempts[:halved], 0.01)
    assert len(asked) == 6 and best is not None and before is not None
    assert 10**before.position < 13 < 10**best.position <= 14


def test_optuna_looks_beside_the_best_attempt_for_no_less() -> None:
    attempts = [Attempt(1.0, 5, 1.0, 0.0), Attempt(1.2, 5, 1.2, 0.02), Attempt(1.1, 5, 1.1, 0.012), Attempt(3.0, 5)]
    effort, bits = suggest(attempts, 5, 0.01, seed=0)
    assert 1.0 <= effort <= 1.25 and 3 <= bits <= 7 and suggest(attempts, 5, 0.01, seed=0) == (effort, bits)
    assert suggest([Attempt(1.0, 0)], 0, 0.01, seed=0)[1] == 0


def test_drop_and_effort_are_those_of_the_metrics() -> None:
    metrics = {"compression/ratio": 100.0, "dense/val/accuracy": 0.9, "compressed/val/accuracy": 0.88}
    assert SIZE.effort(metrics) == pytest.approx(2.0) and SIZE.drop(metrics) == pytest.approx(0.02)
    assert math.isinf(SIZE.drop({})) and SIZE.effort({}) == 0.0
    macs = {"compression/ratio": 400.0, "dense/macs": 200.0, "compressed/macs": 200.0 / 2**0.5}
    assert BOTH.effort(macs) == pytest.approx(0.5)
    loss = Goal({"size_ratio": 10.0}, 0.05, "val/loss", False)
    assert loss.drop({"dense/val/loss": 0.5, "compressed/val/loss": 0.6}) == pytest.approx(0.2)


# --- refused -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("goal", "words", "message"),
    [
        ({}, (), "give size_ratio, macs_ratio or latency_ratio"),
        ({"macs_ratio": 2.0, "latency_ratio": 2.0}, (), "give one"),
        ({"size_ratio": 10.0}, ("task.monitor.metric=train/loss",), "task.monitor.metric=train/loss"),
        ({"size_ratio": 10.0}, ("data.val_fraction=0",), "there is none"),
    ],
)
def test_a_goal_that_makes_no_sense_is_refused(
    goal: dict[str, float | None], words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_goal(goal, 0.01, compose_run(list(words)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("size_ratio=1",), "size_ratio=1: expected greater than 1"),
        (("size_ratio=big",), "size_ratio=big: expected"),
        (("size_ratio=10", "max_drop=-0.1"), "max_drop=-0.1: expected greater than or equal to 0"),
        (("size_ratio=10", "trials=0"), "trials=0: expected greater than or equal to 1"),
        (("size_ratio=10", "compression.budget.trials=3"), "compression.budget.trials is now written trials=3"),
    ],
)
def test_a_wrong_argument_is_refused(words: tuple[str, ...], message: str) -> None:
    from lightning_modules.cli.compress import main

    with pytest.raises(UserError, match=message):
        main(["0123abcd", *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "compression=budget is now: touchstone compress RUN size_ratio=10 max_drop=0.01"),
        (("init_from=0123abcd", "macs_ratio=2"), "touchstone compress 0123abcd macs_ratio=2"),
    ],
)
def test_the_former_command_names_the_new_one(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        refuse_former_budget(["model=mlp", "compression=budget", *words])


@pytest.fixture
def compress(store: Any, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run ``touchstone compress`` in this process; gives `code`, what it `said`, the sweep's run and its trials."""

    def run(*words: str) -> Any:
        from lightning_modules.cli.compress import main
        from lightning_modules.config.command_line import report_errors

        code = 0
        try:
            with report_errors():
                main([*words, *STAGES])
        except SystemExit as left:
            code = int(left.code or 0)
        said = capfd.readouterr()
        parent = newest_sweep(store)
        results = read_trial_results(store, parent.info.run_id) if parent else []
        return SimpleNamespace(code=code, said=said.out + said.err, parent=parent, children=results)

    return run


def test_a_command_that_cannot_be_a_search_is_refused_before_anything_runs(compress: Any, train: Any) -> None:
    dense = train("trainer.max_epochs=1", "model=mlp").info.run_id
    for words, message in {
        (
            dense,
            "size_ratio=10",
            "compression.stages.share.bits=4",
        ): "compression.stages.share.bits=4: the search chooses",
        (dense, "size_ratio=10", "+compression.stages.prune.exclude=[nothing]"): "no layer matches nothing",
        ("0123abcd", "size_ratio=10"): "0123abcd",
    }.items():
        done = compress(*words)
        assert done.code == 1 and message in done.said and not done.children, done.said


# --- the whole -----------------------------------------------------------------------------------------------
def test_what_counts_of_a_compressed_network_is_the_last_value_not_the_best(store: Any) -> None:
    run_id = store.client.create_run(store.experiment("some")).info.run_id
    for step, value in enumerate((0.9, 0.7)):
        for name in ("compressed/val/accuracy", "val/accuracy"):
            store.client.log_metric(run_id, name, value, step=step)
    names = {"compressed/val/accuracy": "maximize", "val/accuracy": "maximize"}
    assert best_values(store, [run_id], names)[run_id] == {"compressed/val/accuracy": 0.7, "val/accuracy": 0.9}


@pytest.mark.slow
def test_a_goal_is_met_and_the_search_is_resumed(compress: Any, train: Any, store: Any) -> None:
    dense = train("trainer.max_epochs=3", "model=mlp").info.run_id
    words = (dense, "size_ratio=8", "max_drop=1.0", "sweep.name=met")
    (attempt,) = compress(*words, "trials=1").children
    assert attempt.params.keys() == {SPARSITY_KEY, BITS_KEY}
    done = compress(*words, "trials=3")
    assert done.code == 0 and "goal met (size_ratio=8 max_drop=1)" in done.said, done.said
    assert done.children[0].run_id == attempt.run_id and len(done.children) == 3
    best = max(done.children, key=lambda child: child.metrics["compression/ratio"])
    run, chosen = done.parent, store.client.get_run(best.run_id)
    assert run.data.tags["sweep.best_run_id"] == best.run_id and run.data.tags["budget.met"] == "true"
    assert run.data.metrics["compressed/test/accuracy"] == chosen.data.metrics["compressed/test/accuracy"]
    assert chosen.data.tags["touchstone.init_from"] == dense
    assert chosen.data.params["model._target_"] == store.client.get_run(dense).data.params["model._target_"]
    folder = local_folder(run.info.artifact_uri)
    assert folder is not None
    assert (folder / "sweep" / "budget.png").stat().st_size > 10_000
    assert f"**{best.name}**" in (folder / "sweep" / "budget.md").read_text()
    assert best.run_id in (folder / "sweep" / "children.csv").read_text()
    again = compress(*words, "trials=3")
    assert again.code == 0 and again.parent.info.run_id == run.info.run_id, again.said
    assert [child.run_id for child in again.children] == [child.run_id for child in done.children]


@pytest.mark.slow
def test_a_goal_that_cannot_be_met_reports_what_was_reached(compress: Any, train: Any) -> None:
    dense = train("trainer.max_epochs=30", "data.per_class=null", "model=mlp").info.run_id
    done = compress(dense, "size_ratio=300", "max_drop=0.02", "trials=5")
    assert done.code == 1 and "the goal was not met: size_ratio=300 max_drop=0.02 was not reached" in done.said
    assert "drop" in done.said and done.parent.info.status == "FAILED" and len(done.children) == 5
    assert done.parent.data.tags["budget.met"] == "false"
    assert "not met" in done.parent.data.tags["touchstone.error"]
    assert {child.status for child in done.children} <= {"FINISHED", "FAILED"}
