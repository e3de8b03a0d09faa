"""A study is a level above experiments: in names, params and tags of runs, in comparisons and in what the store does."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from conftest import QUICK

import lightning_modules as touchstone
from lightning_modules.cli import compare as compare_verb
from lightning_modules.cli import store as store_verb
from lightning_modules.comparison.compare import compare, open_run_reader
from lightning_modules.comparison.result import CompareRequest, Comparison
from lightning_modules.comparison.run_reader import MlflowRunReader, RunReader
from lightning_modules.config.check import check_config
from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.store.study import within_study
from lightning_modules.store.sync import sync
from lightning_modules.tracking.params import default_run_name, experiment_params
from lightning_modules.tracking.resume_drift import config_drift
from lightning_modules.tracking.store import Store

TAG = "touchstone.study"


def test_a_run_has_its_study_in_name_param_and_tag(train: Callable[..., Any], store: Store) -> None:
    found = train("study=augmentation_paper", "trainer.max_epochs=1", "seed=3")
    assert found.info.run_name.startswith("augmentation_paper/digits-mlp ") and "seed=3" in found.info.run_name
    assert found.data.params["study"] == found.data.tags[TAG] == "augmentation_paper"
    (searched,) = store.search_runs(f"tags.`{TAG}` = 'augmentation_paper' AND params.study = 'augmentation_paper'")
    assert searched.info.run_id == found.info.run_id


def test_without_a_study_nothing_changes_and_a_study_changes_no_result() -> None:
    plain, part = compose_run([]), compose_run(["study=a"])
    assert "study" not in experiment_params(dict(plain), []) and default_run_name(dict(plain)) == "digits-convnet"
    assert config_drift(plain, part) == {}
    assert default_run_name(dict(compose_run(["study=a", "name=mine"]))) == "mine"
    with pytest.raises(UserError, match=r"study=a/b: expected letters, digits, spaces"):
        check_config(compose_run(["study=a/b"]))


def in_study(reader: RunReader, targets: Sequence[str], study: str) -> Comparison:
    reader, targets = within_study(reader, targets, study)
    return compare(reader, CompareRequest(targets, by=["model"]))


@pytest.fixture
def runs(store: Store) -> dict[str, str]:
    """Name -> id: in two experiments, two runs of the study `paper` and one of another or of none."""
    ids = {}
    for experiment, name, study in (
        ("one", "a", "paper"), ("one", "b", "papers"), ("two", "c", "paper"), ("two", "d", None),
    ):  # fmt: skip
        tags = {TAG: study} if study else {}
        run_id = store.client.create_run(store.experiment(experiment), run_name=name, tags=tags).info.run_id
        store.client.log_param(run_id, "model", name)
        store.client.log_metric(run_id, "test/accuracy", 0.5)
        store.client.set_terminated(run_id)
        ids[name] = run_id
    return ids


def test_a_comparison_is_that_of_a_study(store: Store, runs: dict[str, str]) -> None:
    def compared(*targets: str, study: str) -> set[str]:
        found = in_study(open_run_reader(), targets, study)
        assert in_study(MlflowRunReader(store), targets, study) == found
        return {value for row in found.rows for value in row.values}

    assert compared(study="paper") == {"a", "c"}
    assert compared("two", study="paper") == {"c"}
    assert {row["values"] for row in compare_verb.main(["study=paper", "by=model", "log=false"])["rows"]} == {
        ("a",),
        ("c",),
    }
    assert list(touchstone.compare(study="paper", by=["model"])["model"]) == ["a", "c"]
    for reader in (open_run_reader(), MlflowRunReader(store)):
        for study, message in (
            ("peper", r"did you mean 'paper' or 'papers'\?"),
            ("o'x\"", "choose one of: paper, papers"),
        ):
            with pytest.raises(UserError, match=message):
                in_study(reader, [], study)
    with pytest.raises(UserError, match="two: no finished run to compare"):
        in_study(open_run_reader(), ["two"], "papers")
    with pytest.raises(UserError, match=r"b: the run .* is not part of the study paper"):
        in_study(open_run_reader(), ["b"], "paper")


def test_a_comparison_of_a_study_has_the_runs_that_its_sweep_reused(store: Store, runs: dict[str, str]) -> None:
    tags = {"touchstone.kind": "sweep", "sweep.name": "s", TAG: "paper", "sweep.link.0": runs["d"]}
    store.client.set_terminated(store.client.create_run(store.experiment("two"), run_name="s", tags=tags).info.run_id)
    found = in_study(open_run_reader(), [], "paper")
    assert {row.values[0] for row in found.rows} == {"a", "c", "d"}


def test_the_store_deletes_keeps_and_notes_a_study(
    store: Store, runs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    def active() -> set[str]:
        return {run.info.run_name for run in store.search_runs()}

    store_verb.main(["keep", "a"])
    assert {run["name"] for run in store_verb.main(["delete", "study=paper", "dry_run=true"])} == {"c"}
    store_verb.main(["unkeep", "study=paper"])
    store_verb.main(["note", "study=paper", "tags=seen=yes"])
    store_verb.main(["delete", "study=paper"])
    assert active() == {"b", "d"} and "undo: touchstone store restore study=paper " in capsys.readouterr().out
    store_verb.main(["restore", "study=paper"])
    assert active() == {"a", "b", "c", "d"}
    assert {run.info.run_name for run in store.search_runs("tags.seen = 'yes'")} == {"a", "c"}
    for words, message in (
        (["delete", "study=peper"], r"study=peper: no run is part of it; did you mean 'paper' or 'papers'\?"),
        (["restore", "study=paper"], "no deleted run is part of it"),
        (["delete", "a", "study=paper"], "study= stands for its runs: name no RUN"),
        (["prune", "study=paper"], "store prune has no study="),
    ):
        with pytest.raises(UserError, match=message):
            store_verb.main(words)


def test_a_study_is_pushed(store: Store, runs: dict[str, str], tmp_path: Any) -> None:
    pushed = sync(to_uri=f"sqlite:///{tmp_path}/other/mlflow.db", study="paper")
    assert {run["run_id"] for run in pushed} == {runs["a"], runs["c"]}


def test_a_loop_in_python_has_a_study(store: Store) -> None:
    with touchstone.recorded("mine", {"study": "a param of the user's"}, study="paper") as run:
        pass
    found = store.client.get_run(run.run_id).data
    assert found.tags[TAG] == "paper" and found.params["study"] == "a param of the user's"
    with pytest.raises(UserError, match="expected letters"), touchstone.recorded("mine", study="a'b"):
        pass


@pytest.mark.slow
def test_a_sweep_and_all_its_runs_have_the_study(command: Callable[..., Any], store: Store) -> None:
    words = ("study=paper", "sweep=rates", "optimizer.lr=1e-3,-1", "sweep.retries=0", "sweep.jobs=1", "cpu_threads=1")
    command("train.py", "-m", *[word for word in QUICK if not word.startswith("~")], *words)
    found = {run.info.run_name: run.data.tags.get(TAG) for run in store.search_runs()}
    assert found["paper/rates"] == "paper" and set(found.values()) == {"paper"}, found
    assert len(found) >= 2
    assert compare_verb.main(["rates", "log=false"])["rows"]  # the sweep keeps its name
