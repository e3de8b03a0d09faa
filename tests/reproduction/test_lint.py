"""Claims that cannot be judged are refused with file, line and reason, all at once."""

import re

import pytest
from claimed import CLAIM, Project

SOURCE = {"place": "x", "kind": "readme"}
PAPER = CLAIM["paper"]
DIFFERENCE = {
    "kind": "difference",
    "value": 7.0,
    "arms": [{"name": "a", "value": 75.0}, {"name": "b", "value": 66.0}],
}


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
    project.claim("bad/config", good, {"optimizer": {"lrr": 1}})
    ended = project.reproduce("all", "--lint")
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
            "claim.selection: best_val needs a validation",
        ],
        "bad/best_test": ["claim.selection: best_test needs the test part's history: data.watch_test=true"],
        "bad/lowest": ["claim.selection: lowest_train_loss needs a checkpoint"],
        "bad/curve": ["claim.epoch: 5, but 40 epochs are trained"],
        "bad/short": ["claim.expect: a shortened run is never judged"],
        "bad/data": ["claim.data: the sha256", f"data: {digits_hash}"],
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


@pytest.mark.slow
def test_nothing_is_run_where_one_claim_has_a_mistake_and_the_data_must_be_those_of_the_claim(
    project: Project, digits_hash: str
) -> None:
    project.claim("paper/good", {"data": digits_hash})
    project.claim("paper/bad", {"data": digits_hash, "better": "lower"})
    refused = project.reproduce("paper")
    assert refused.returncode == 1
    assert "claims that cannot be judged (1 mistakes)" in refused.stderr
    assert not _runs(project)
    project.claim("paper/bad", {"data": "1" * 64})
    other = project.reproduce("paper/bad")
    assert other.returncode == 1
    assert f"other data: their sha256 is {digits_hash}" in other.stderr
    assert "INVALID" in other.stdout
    assert not _runs(project)
    unknown = project.reproduce("paper/god")
    assert unknown.stderr.startswith("paper/god: there is no such claim; did you mean ")
    assert "'paper/good'" in unknown.stderr


def _runs(project: Project) -> list[object]:
    client = project.store().client
    return list(client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]))
