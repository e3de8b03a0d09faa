"""Claims that cannot be judged are refused with file, line and reason, all at once."""

import re
from typing import Any

import pytest
from claim_builder import make_claim
from claim_project import CLAIM, Project

from lightning_modules.config.command_line import compose_run
from lightning_modules.config.trust import untrusted
from lightning_modules.reproduction.lint import check_claim
from lightning_modules.reproduction.logged_metrics import is_logged, task_metric_names

SOURCE = {"place": "x", "kind": "readme"}
PAPER = CLAIM["paper"]
FIFTH = {"value": 0.2, "why": "more than a fifth"}
DIFFERENCE = {
    "kind": "difference",
    "value": 7.0,
    "tolerance": {"value": 2.0, "why": "x"},
    "arms": [{"name": "a", "value": 75.0}, {"name": "b", "value": 66.0}],
}


@pytest.mark.slow
def test_every_way_to_be_unjudgeable_is_told_with_its_file_and_line(project: Project, digits_hash: str) -> None:
    good = {"data": digits_hash}
    best = {"defaults": [{"override /data": "digits"}, {"override /model": "linear"}], "data": {"val_fraction": 0.1}}
    project.claim("good/one", good)
    project.claim("bad/typo", {**good, "kind": "absolut", "colour": "red"})
    project.claim("bad/delta", {**good, **DIFFERENCE})
    project.claim("bad/direction", {**good, "better": "lower"})
    project.claim("bad/unit", {**good, "unit": ""})
    project.claim("bad/fraction", {**good, "value": 0.9})
    project.claim("bad/last", good, best)
    project.claim("bad/best_val", {**good, "selection": "best_val"})
    project.claim("bad/best_test", {**good, "selection": "best_test"})
    project.claim("bad/lowest", {**good, "selection": "lowest_train_loss"})
    project.claim("bad/curve", {**good, "kind": "curve", "epoch": 5})
    project.claim("bad/short", {**good, "shortened": "half of it"})
    project.claim("bad/data", {"data": None})
    project.claim("bad/hash", {"data": "1" * 64})
    project.claim("bad/metric", {**good, "metric": "test/acuracy"})
    project.claim("bad/tolerance", {**good, "tolerance": {"value": 60, "why": "x"}})
    project.claim("bad/sequential", good, {"model": {"_target_": "torch.nn.Sequential"}})
    project.claim("bad/untrusted", good, {"callbacks": {"mine": {"_target_": "collections.OrderedDict"}}})
    typo = {"defaults": [{"override /data": "digits"}, {"override /model": "lineer"}, {"override /callbacks": "last"}]}
    project.claim("bad/option", good, typo)
    for name, text in (
        ("broken", "claim:\n  value: [1\n  tier: ci\n"),
        ("empty", "claim:\n"),
        ("number", "claim: 5\n"),
    ):
        (project.folder / f"experiments/bad/{name}.yaml").write_text(f"# @package _global_\n{text}")
    (project.folder / "experiments/bad/latin.yaml").write_bytes(b"# @package _global_\n# caf\xe9\nclaim: {}\n")
    project.claim("bad/config", good, {"optimizer": {"lrr": 1}})
    ended = project.reproduce("all", "lint=true")
    assert ended.returncode == 1, ended.stderr
    found = _by_claim(ended.stdout)
    assert found.pop("good/one") == []
    wanted = {
        "bad/typo": ["claim.kind: Input should be", "claim.colour: Extra inputs"],
        "bad/delta": ["claim.value: 7 is not 75 - 66 = 9"],
        "bad/direction": ["claim.better: lower, but test/accuracy is better the higher it is"],
        "bad/unit": ["claim.unit: '', but test/accuracy is a fraction"],
        "bad/fraction": ["claim.unit: %, but the value is 0.9"],
        "bad/last": ["claim.selection: last, but the best weights are tested"],
        "bad/best_val": [
            "claim.selection: best_val needs a checkpoint",
            "claim.selection: best_val needs validation data",
        ],
        "bad/best_test": ["claim.selection: best_test needs test metrics of every epoch; set data.watch_test=true"],
        "bad/lowest": ["claim.selection: lowest_train_loss needs a checkpoint"],
        "bad/curve": ["claim.epoch: 5, but 40 epochs are trained"],
        "bad/short": ["claim.expect: the verdict of a shortened run is always INCONCLUSIVE"],
        "bad/data": [f"claim.data: the sha256 of the raw data is missing; add data: {digits_hash}"],
        "bad/hash": [f"claim.data: the sha256 of the raw data is {digits_hash}, not 1111"],
        "bad/metric": ["claim.metric: no run of this config logs 'test/acuracy'; did you mean 'test/accuracy'"],
        "bad/tolerance": ["claim.tolerance: ±60 points (x): must be at most 10 points"],
        "bad/sequential": [
            "model.hidden=[]: torch.nn.Sequential has no argument 'hidden'",
            "model.input_shape=null: torch.nn.Sequential has no argument 'input_shape'",
            "model.num_outputs=null: torch.nn.Sequential has no argument 'num_outputs'",
        ],
        "bad/untrusted": ["callbacks.mine._target_=collections.OrderedDict: a run with it cannot be resumed"],
        "bad/option": [
            "experiments/bad/option.yaml:4: a defaults list names model=lineer: unknown option of model; did you mean 'linear'"
        ],
        "bad/broken": ["experiments/bad/broken.yaml:4: not valid YAML: "],
        "bad/empty": [
            "experiments/bad/empty.yaml:2: claim: expected the keys of a claim",
        ],
        "bad/number": ["experiments/bad/number.yaml:2: claim: expected the keys of a claim"],
        "bad/latin": ["experiments/bad/latin.yaml:2: not UTF-8 text (byte 0xe9)"],
        "bad/config": ["lrr"],
    }
    assert found.keys() == wanted.keys()
    for name, said in wanted.items():
        assert len(found[name]) == len(said), (name, found[name])
        for line, words in zip(found[name], said, strict=True):
            assert words in line
    line = (project.folder / "experiments/bad/direction.yaml").read_text().splitlines().index("  better: lower") + 1
    assert found["bad/direction"][0].startswith(f"experiments/bad/direction.yaml:{line}: ")


def _by_claim(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := re.match(r"(\w+/\w+): (ok|\d+ mistakes)$", line):
            found[match[1]] = []
        elif found and line.strip():
            list(found.values())[-1].append(line.strip())
    return found


@pytest.mark.parametrize(
    ("said", "first", "second", "fits"),
    [(7.0, 75.0, 66.0, False), (0.0085, 0.944, 0.94, False), (0.004, 0.944, 0.94, True), (0.73, 96.01, 95.28, True),
     (0.38, 93.77, 93.53, False), (9.0, 75.4, 66.4, True)],
)  # fmt: skip
def test_a_published_difference_is_that_of_its_arms_up_to_rounding(
    said: float, first: float, second: float, fits: bool
) -> None:
    arms = [{"name": "a", "value": first}, {"name": "b", "value": second}]
    half = {"value": said / 2, "why": "x"}
    claim = make_claim(
        kind="difference", value=said, unit="stars", metric="test/rmse", better="lower", arms=arms, tolerance=half
    )
    found = [place for place, _ in check_claim(claim.model_copy(update={"data": "0" * 64}))]
    assert found == ([] if fits else ["value"])


@pytest.mark.parametrize(
    ("metric", "better", "wrong"),
    [("test/ndcg_at_10", "lower", True), ("test/ndcg_at_10", "higher", False), ("test/rmse", "higher", True),
     ("compressed/test/accuracy", "lower", True), ("weights/projection_0", "lower", False)],
)  # fmt: skip
def test_the_direction_comes_from_the_table_of_names(metric: str, better: str, wrong: bool) -> None:
    claim = make_claim(metric=metric, better=better, value=0.4, unit=None, data="0" * 64)
    assert [place for place, _ in check_claim(claim)] == ["better"] * wrong


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"value": 90, "tolerance": {"value": 60, "why": "x"}}, "±60 points"),
        ({"value": 90, "std": 8.0, "n": 5}, "±16 points (twice the published standard deviation)"),
        ({"value": 0.94, "unit": "stars", "metric": "test/rmse", "better": "lower", "tolerance": FIFTH}, "20 %"),
        ({"kind": "difference", "value": 1.0, "arms": [{"name": "a"}, {"name": "b"}]}, "a difference of 0 would be within it"),
        ({"kind": "difference", "value": 1.1, "arms": [{"name": "a"}, {"name": "b"}]}, None),
        ({"value": 90, "tolerance": {"value": 3, "why": "x"}}, None),
    ],
)  # fmt: skip
def test_a_tolerance_that_almost_any_result_meets_is_refused(fields: dict[str, Any], wrong: str | None) -> None:
    found = [text for place, text in check_claim(make_claim(**fields, data="0" * 64)) if place == "tolerance"]
    assert len(found) == (wrong is not None)
    assert wrong is None or wrong in found[0]


@pytest.mark.parametrize(
    ("words", "metric", "logged"),
    [
        ((), "test/accuracy", True), ((), "test/f1", True), ((), "test/rmse", False), ((), "compression/ratio", False),
        (("compression=codebook",), "compression/ratio", True), (("compression=codebook",), "compressed/test/f1", True),
        (("compression=codebook",), "compressed/test/rmse", False), (("task=regression",), "test/rmse", True),
        ((), "weights/norm", False), ((), "model/params", True),
        (("data=movielens_implicit", "model=bpr", "task=ranking"), "test/ndcg_at_10", True),
        (("data=movielens_implicit", "model=bpr", "task=ranking"), "test/ndcg_at_5", False),
    ],
)  # fmt: skip
def test_what_a_run_logs_is_known_from_its_config(words: tuple[str, ...], metric: str, logged: bool) -> None:
    cfg = compose_run(words)
    names = task_metric_names(cfg)
    assert names is not None
    assert is_logged(metric, cfg, names) == logged


def test_a_run_tells_of_components_that_it_could_not_be_loaded_with() -> None:
    cfg = compose_run(["+callbacks.mine._target_=claim_builder.make_claim"])
    (said,) = untrusted(cfg)
    assert said.startswith("callbacks.mine._target_=claim_builder.make_claim: a run with it cannot be resumed")
    assert said.endswith("TOUCHSTONE_TRUST=claim_builder")
    assert untrusted(compose_run([])) == []


@pytest.mark.slow
def test_the_claims_without_a_mistake_are_run_and_the_data_must_be_those_of_the_claim(
    project: Project, digits_hash: str
) -> None:
    project.claim("paper/good", {"data": digits_hash})
    project.claim("paper/bad", {"data": digits_hash, "better": "lower"})
    (project.folder / "experiments/paper/broken.yaml").write_text("# @package _global_\nclaim: [\n")
    some = project.reproduce("paper")
    assert some.returncode == 1
    assert "invalid claims (2 mistakes)" in some.stderr
    assert "experiments/paper/broken.yaml:3: not valid YAML" in some.stderr
    assert "paper/good" in some.stdout
    assert len(_runs(project)) == 4  # the parent and three seeds
    project.claim("paper/bad", {"data": "1" * 64})
    other = project.reproduce("paper/bad")
    assert other.returncode == 1
    assert f"the data have {digits_hash}" in other.stderr
    assert "INVALID" in other.stdout
    assert len(_runs(project)) == 4
    unknown = project.reproduce("paper/god")
    assert unknown.stderr.startswith("paper/god: no such claim; did you mean ")
    assert "'paper/good'" in unknown.stderr


def _runs(project: Project) -> list[object]:
    client = project.store().client
    return list(client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]))
