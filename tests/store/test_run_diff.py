"""What differs between two runs."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.cli import compare
from lightning_modules.config.errors import UserError
from lightning_modules.store import run_diff
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.store import Store


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of two commits, the second of which changes b.py, in the place of this project's."""
    folder = tmp_path / "repository"
    folder.mkdir()
    _git(folder, "init", "--quiet")
    for text in ("1", "2"):
        (folder / "a.py").write_text("0")
        (folder / "b.py").write_text(text)
        _git(folder, "add", ".")
        _git(folder, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "-m", text)
    monkeypatch.setattr(run_diff, "code_folder", lambda: folder)
    return folder


def test_two_runs_of_different_settings(
    store: Store, train: Callable[..., Any], repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = train("optimizer.lr=0.1", "name=slow"), train("optimizer.lr=0.01", "name=fast")
    ids = [run.info.run_id for run in (first, second)]
    capsys.readouterr()
    found = compare.main([f"diff=[{','.join(ids)}]"])
    assert [run["run_id"] for run in found["runs"]] == ids
    assert found["config"] == {"optimizer.lr": [0.1, 0.01]}
    assert found["code"] == found["data"] == found["packages"] == {}
    assert found["metrics"]["val/loss"] == [run.data.metrics["val/loss"] for run in (first, second)]
    assert not any(name.startswith("system/") for name in found["metrics"])
    printed = capsys.readouterr().out
    assert "optimizer.lr" in printed and "equal: code, data, packages" in printed
    commits = _git(repository, "log", "--format=%H").split()
    store.client.set_tag(ids[0], "mlflow.source.git.commit", commits[0])
    _alter(store, second, commits[1])
    found = compare.main([f"diff={ids[0]},fast"])
    assert found["data"] == {"data.fingerprint": [first.data.tags["data.fingerprint"], "other"]}
    assert found["packages"] == {"torch": [_version(store, first), "0.1"]}
    assert found["code"] == {"changed: b.py": [None, None], "commit": commits}
    store.client.set_tag(ids[0], "mlflow.source.git.commit", f"--output={repository}/written")
    assert compare.main([f"diff={ids[0]},fast"])["code"].keys() == {"commit"}
    assert not (repository / "written").exists(), "git took a tag of the store for an option"


def _alter(store: Store, run: Any, commit: str) -> None:
    """As if the run had been trained on other data, with another torch, at the commit before."""
    store.client.set_tag(run.info.run_id, "data.fingerprint", "other")
    store.client.set_tag(run.info.run_id, "mlflow.source.git.commit", commit)
    packages = artifact_path(store, run, "environment/requirements.txt")
    lines = [f"torch=={0.1}" if line.startswith("torch==") else line for line in packages.read_text().splitlines()]
    packages.write_text("\n".join(lines))


def _version(store: Store, run: Any) -> str:
    lines = artifact_path(store, run, "environment/requirements.txt").read_text().splitlines()
    return next(line.removeprefix("torch==") for line in lines if line.startswith("torch=="))


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_runs_of_another_tool_are_compared_by_their_params(store: Store) -> None:
    ids = []
    for lr in ("0.1", "0.2"):
        run_id = store.client.create_run(store.experiment("here"), run_name=f"lr {lr}").info.run_id
        store.client.log_param(run_id, "lr", lr)
        store.client.log_metric(run_id, "loss", float(lr))
        ids.append(run_id)
    found = compare.main([f"diff={ids[0]},{ids[1]}"])
    assert (found["config"], found["metrics"]) == ({"lr": ["0.1", "0.2"]}, {"loss": [0.1, 0.2]})
    with pytest.raises(UserError, match=f"both are run {ids[0]}"):
        compare.main([f"diff={ids[0]},lr 0.1"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["diff=a"], "diff=a: expected two runs"),
        (["diff=a,b", "metric=loss"], "and nothing else metric="),
        (["diff=a,b", "run"], "and nothing else run"),
        ([], "RUN is missing"),
    ],
)
def test_mistakes(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare.main(words)
