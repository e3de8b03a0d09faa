"""The schema of a claim, the names of claims, and the numbers of their runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from claim_builder import make_claim
from claim_project import CLAIM

from lightning_modules.config.errors import UserError
from lightning_modules.report.t_intervals import Sample
from lightning_modules.reproduction.claim import parse_claim
from lightning_modules.reproduction.claim_runs import build_claim_plan, claim_runs, select_seeds
from lightning_modules.reproduction.discovery import find_claims, tier_of

ARMS = [{"name": "a", "overrides": ["optimizer.lr=0.1"], "value": 3}, {"name": "b", "value": 1}]


def mistakes(**changes: Any) -> list[str]:
    node = {key: value for key, value in {**CLAIM, **changes}.items() if value is not None}
    return [f"{place}: {said}" for place, said in parse_claim(node)[1]]


def test_all_mistakes_of_a_claim_are_told_at_once() -> None:
    found = mistakes(better="up", kind="absolut", paper={"title": "x"}, colour="red", seeds=[])
    places = [line.partition(":")[0] for line in found]
    assert {"better", "kind", "paper.authors", "paper.year", "paper.link", "colour", "seeds"} <= set(places)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "curve"}, "epoch"),
        ({"epoch": 3}, "epoch"),
        ({"kind": "difference"}, "arms"),
        ({"arms": ARMS}, "arms"),
        ({"value": None}, "value"),
        ({"runs": [1.0, 2.0]}, "value: 85 is not the mean of runs"),
        ({"std": 1.0}, "std"),
        ({"value": None, "runs": [1.0, 2.0], "std": 1.0, "n": 2}, "runs"),
        ({"kind": "equivalence", "arms": ARMS, "tolerance": None}, "tolerance"),
        ({"kind": "difference", "arms": [*ARMS, {"name": "c"}]}, "arms"),
        ({"kind": "difference", "arms": [ARMS[0], ARMS[0]]}, "arms"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"value": float("nan")}, "value"),
        ({"expect": "MAYBE"}, "expect"),
        ({"data": "abc"}, "data"),
        ({"tolerance": {"value": 1}}, "tolerance.why"),
    ],
)
def test_a_senseless_claim_is_refused_with_its_key(changes: dict[str, Any], said: str) -> None:
    found = mistakes(**changes)
    assert any(line.startswith(said) for line in found), found


def test_a_good_claim_has_no_mistakes_and_one_expected_verdict_may_be_written_alone() -> None:
    claim, found = parse_claim(CLAIM)
    assert claim is not None
    assert not found
    assert claim.expect == ("REPRODUCED",)
    assert claim.scale == 100.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a/one", "a/two", "b/one", "a/base", "b/recipe"):
        file = tmp_path / f"{name}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text("seed: 1\n" + "claim: {}\n" * (name != "b/recipe"))
    return tmp_path


def test_a_claim_is_named_by_itself_by_its_folder_or_by_all(folder: Path) -> None:
    assert find_claims(["a/two"], folder) == ["a/two"]
    assert find_claims(["a", "a/one"], folder) == ["a/one", "a/two"]  # base.yaml is a part of others
    assert find_claims(["all"], folder) == ["a/one", "a/two", "b/one"]  # recipe.yaml claims nothing
    assert find_claims(["experiments/b/one.yaml"], folder) == ["b/one"]


def test_the_tier_is_that_of_the_nearest_file_that_names_one(folder: Path) -> None:
    for name, text in {
        "base": "claim:\n  tier: gpu\n# as base_rerun",
        "base_rerun": "defaults: [base]",
        "one": "defaults: [base_rerun]",
        "two": "defaults: [base_rerun]\nclaim:\n  tier: cpu\n",
    }.items():
        (folder / "a" / f"{name}.yaml").write_text(text)
    assert [tier_of(name, folder) for name in ("a/one", "a/two", "b/one")] == ["gpu", "cpu", "ci"]
    assert find_claims(["a"], folder) == ["a/one", "a/two"]


def test_unknown_claims_are_all_told_with_the_nearest_names(folder: Path) -> None:
    with pytest.raises(UserError) as error:
        find_claims(["a/onne", "zzz"], folder)
    assert "a/onne: no such claim; did you mean 'a/one'" in str(error.value)
    assert "zzz: no such claim; choose one of: " in str(error.value)


def test_more_seeds_keep_the_numbers_of_the_runs_that_are_there(new_claim: Callable[..., Any]) -> None:
    claim = new_claim(kind="difference", arms=ARMS, value=2, folds=2)
    assert select_seeds(claim, 2) == (0, 1)
    assert select_seeds(claim, 5) == (0, 1, 2, 3, 4)
    few, more = claim_runs(claim, select_seeds(claim, 2)), claim_runs(claim, select_seeds(claim, 5))
    assert more[: len(few)] == few
    assert len(more) == 5 * 2 * 2


def test_a_run_of_a_claim_gets_its_arm_its_seed_and_its_fold(new_claim: Callable[..., Any]) -> None:
    plan = build_claim_plan(new_claim(kind="difference", arms=ARMS, value=2, folds=2), (7,))
    assert plan.trials[1].overrides == ("optimizer.lr=0.1", "seed=7", "data.folds=2", "data.fold=1")
    assert plan.trials[1].params == {"arm": "a", "seed": 7, "data.fold": 1}
    assert plan.objectives == {"test/accuracy": "maximize"}
    assert len(plan.samples()) == 4  # each config once, with the first seed


def test_what_is_published_is_runs_or_a_mean_with_spread_or_one_draw() -> None:
    assert make_claim(runs=[1.0, 2.0, 3.0]).sample() == Sample(2.0, 1.0, 3)
    assert make_claim(value=5, std=0.5, n=10).sample() == Sample(5.0, 0.5, 10)
    assert make_claim(value=5).sample() == Sample(5.0, None, 1)
    assert make_claim(value=5, std=0.5, n=1).sample() == Sample(5.0, None, 1)
    assert make_claim(runs=[5.0]).sample() == Sample(5.0, None, 1)
    assert make_claim(kind="ordering", arms=[{"name": "a"}, {"name": "b"}]).sample() is None
