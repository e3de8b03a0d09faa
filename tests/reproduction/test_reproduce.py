"""The verb as a user runs it: real runs, a real store, a copy of the project with claims of the test's own."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
from claim_project import Project

HALF = {"value": 0.5, "why": "half of the difference"}
pytestmark = pytest.mark.timeout(900)  # several commands in each, every one with its own imports


def parents(project: Project, **tags: str) -> list[Any]:
    """The claims' runs in the store, the newest first."""
    client = project.store().client
    everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(everywhere, "tags.`claim` LIKE '%'", order_by=["attributes.start_time DESC"])
    return [run for run in found if all(run.data.tags.get(key) == value for key, value in tags.items())]


def children(project: Project, parent: Any) -> list[Any]:
    client = project.store().client
    return list(client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"))


def verdict(project: Project, parent: Any) -> dict[str, Any]:
    from lightning_modules.tracking.artifacts import artifact_path

    return dict(json.loads(artifact_path(project.store(), parent, "claim/verdict.json").read_text()))


@pytest.mark.slow
def test_a_claim_is_run_judged_recorded_and_not_run_again(project: Project, digits_hash: str) -> None:
    project.claim("paper/linear", {"data": digits_hash})
    ended = project.reproduce("paper/linear", "sweep.jobs=2")
    assert ended.returncode == 0, ended.stderr
    assert "paper/linear" in ended.stdout
    (parent,) = parents(project)
    assert parent.data.tags["verdict"] == "REPRODUCED"
    assert parent.info.status == "FINISHED"
    runs = children(project, parent)
    assert {run.data.params["seed"] for run in runs} == {"0", "1", "2"}
    assert "claim.value" not in runs[0].data.params
    values = {int(seed): value for seed, value in verdict(project, parent)["values"][""].items()}
    assert values == pytest.approx({int(r.data.params["seed"]): 100 * r.data.metrics["test/accuracy"] for r in runs})
    mean = sum(values.values()) / 3
    assert parent.data.metrics["claim/ours_mean"] == pytest.approx(mean)
    assert parent.data.metrics["claim/difference"] == pytest.approx(mean - 85.0)
    files = {item.path for item in project.store().client.list_artifacts(parent.info.run_id, "claim")}
    assert files == {f"claim/{name}" for name in ("claim.yaml", "picture.png", "report.md", "verdict.json")}

    more = project.reproduce("paper", "seeds=4")  # by its folder, with a seed more than it has
    assert more.returncode == 0, more.stderr
    (again,) = parents(project)
    assert again.info.run_id == parent.info.run_id
    assert {run.info.run_id for run in runs} < {run.info.run_id for run in children(project, again)}
    assert again.data.metrics["claim/n"] == 4

    project.folder.joinpath("experiments/README.md").write_text("# x\n<!-- claims -->\nold\n<!-- /claims -->\nend\n")
    project.folder.joinpath("experiments/paper/README.md").write_text("<!-- claims -->\n<!-- /claims -->\n")
    written = project.reproduce("all", "table=true")
    assert written.returncode == 0, written.stderr
    for file in ("experiments/README.md", "experiments/paper/README.md"):
        text = project.folder.joinpath(file).read_text()
        assert "paper/linear" in text
        assert "REPRODUCED" in text
        assert "old" not in text

    project.claim(
        "paper/other", {"data": digits_hash}
    )  # without a verdict: the table would lose nothing, but not be whole
    refused = project.reproduce("all", "table=true")
    assert refused.returncode == 1
    assert "README.md is unchanged: no result for paper/other" in refused.stderr


@pytest.mark.slow
@pytest.mark.long
def test_an_unexpected_verdict_a_shortened_run_and_other_overrides_are_told_by_the_exit_code(
    project: Project, digits_hash: str
) -> None:
    narrow = {"value": 1.0, "better": "lower", "metric": "test/loss", "unit": "", "data": digits_hash}
    project.claim("paper/wrong", {**narrow, "value": 0.001, "tolerance": {"value": 0.0001, "why": "x"}})
    project.claim("paper/short", {"data": digits_hash, "shortened": "40 of 400 epochs", "expect": "INCONCLUSIVE"})
    ended = project.reproduce("all", "sweep.jobs=2")
    assert ended.returncode == 1
    assert "NOT EXPECTED" in ended.stdout
    assert {run.data.tags["claim"]: run.data.tags["verdict"] for run in parents(project)} == {
        "paper/wrong": "NOT_REPRODUCED",
        "paper/short": "INCONCLUSIVE",
    }
    linked = [r for r in parents(project) if r.data.tags["claim"] == "paper/wrong"]  # both claims are of the same runs
    assert len(children(project, linked[0])) == 0 or len(children(project, parents(project)[0])) == 0

    tried = project.reproduce("paper/short", "trainer.max_epochs=1", "seeds=1")
    assert tried.returncode == 1
    newest = parents(project)[0]
    assert newest.data.tags["verdict"] == "INVALID"
    assert newest.data.tags["claim.overrides"] == "trainer.max_epochs=1"


@pytest.mark.slow
def test_a_killed_reproduction_goes_on_and_a_changed_config_is_refused_meanwhile(
    project: Project, digits_hash: str
) -> None:
    slow = {"trainer": {"max_epochs": 400}}
    project.claim("paper/linear", {"data": digits_hash}, slow)
    # from within another clone, whose package must not be taken for that of the project
    process = subprocess.Popen(project.command("paper/linear"), env=project.environment(), stdout=subprocess.DEVNULL)
    _until(lambda: any(run.info.status == "FINISHED" for p in parents(project) for run in children(project, p)))
    process.send_signal(signal.SIGKILL)
    process.wait()
    (parent,) = parents(project)
    done = {run.info.run_id for run in children(project, parent) if run.info.status == "FINISHED"}

    project.claim("paper/linear", {"data": digits_hash}, {**slow, "optimizer": {"lr": 0.5}})
    refused = project.reproduce("paper/linear")
    assert refused.returncode == 1
    assert "unfinished run with a different config" in refused.stderr
    assert "optimizer.lr" in refused.stderr

    project.claim("paper/linear", {"data": digits_hash, "expect": "INCONCLUSIVE"}, slow)
    ended = project.reproduce("paper/linear")  # what is judged may change, what is run may not
    assert ended.returncode == 0, ended.stderr
    (again,) = parents(project)
    assert again.info.run_id == parent.info.run_id
    assert again.data.tags["verdict"] == "INCONCLUSIVE"  # after so many epochs all seeds have one value
    assert done < {run.info.run_id for run in children(project, again)}


def _until(condition: Callable[[], bool], seconds: float = 200.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.3)


@pytest.mark.slow
def test_a_seed_that_fails_leaves_the_others_judged(project: Project, digits_hash: str) -> None:
    # of arm b the learning rate is too large for any seed: its loss is not finite
    arms = [{"name": "a"}, {"name": "b", "overrides": ["optimizer.lr=1e30", "optimizer.weight_decay=1e30"]}]
    project.claim(
        "paper/two",
        {
            "data": digits_hash,
            "kind": "difference",
            "value": 1.0,
            "arms": arms,
            "tolerance": HALF,
            "expect": "INCONCLUSIVE",
        },
    )
    ended = project.reproduce("paper/two", "sweep.retries=0", "sweep.jobs=2")
    (parent,) = parents(project)
    assert parent.data.tags["verdict"] == "INCONCLUSIVE"
    assert "no value: b seed 0, b seed 1, b seed 2" in ended.stderr
    assert len([run for run in children(project, parent) if run.info.status == "FINISHED"]) == 3


@pytest.mark.slow
@pytest.mark.long
def test_ten_seeds_are_frozen_as_a_reference_that_the_same_code_meets_exactly(
    project: Project, digits_hash: str
) -> None:
    project.claim("paper/linear", {"data": digits_hash})
    few = project.reproduce("paper/linear", "freeze=true")
    assert few.returncode == 1
    assert "at least 10 seeds" in few.stderr
    written = project.reproduce("paper/linear", "freeze=true", "seeds=10", "sweep.jobs=2")
    assert written.returncode == 0, written.stderr
    assert (project.folder / "experiments/paper/linear_frozen.yaml").is_file()
    judged = project.reproduce("paper/linear_frozen", "fresh=true")
    assert judged.returncode == 0, judged.stderr
    assert "10 of 10 seeds have exactly the value of the reference" in judged.stdout
