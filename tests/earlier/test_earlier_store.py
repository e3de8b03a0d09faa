"""Runs that an earlier version recorded stay usable: `store.tar.xz` was written at commit 47979ac.

It holds `plain`, the grid `rates` (2 rates x 2 seeds), the search `searched`, `compressed` (deep_compression), `ddp` (two
ranks), the claim `mnist1d/linear` (2 seeds) and `interrupted` (SIGTERM), all small ones on digits or MNIST-1D.
"""

import io
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from lightning_modules.config.command_line import compose_run
from lightning_modules.run.predict import find_model, predict
from lightning_modules.run.run import run
from lightning_modules.store.relocate import relocate
from lightning_modules.tracking.resume import best_checkpoint
from lightning_modules.tracking.store import Store, find_run, open_store, sqlite_uri

ARCHIVE = Path(__file__).with_name("store.tar.xz")


@pytest.fixture(scope="session")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def store(extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A copy of the earlier store, relocated to a folder of this test."""
    folder = tmp_path / "a? b#c%41"  # MLflow takes some paths for URIs
    shutil.copytree(extracted, folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri(folder / "mlflow.db"))
    opened = open_store()
    assert relocate(opened, Path("/project/mlruns")) > 0
    return opened


def history(store: Store, run_id: str, key: str) -> list[tuple[int, float]]:
    with closing(sqlite3.connect(store.path)) as database:
        query = "SELECT step, value FROM metrics WHERE run_uuid = ? AND key = ? ORDER BY step, timestamp"
        return database.execute(query, (run_id, key)).fetchall()


def digits_file(folder: Path) -> Path:
    """The first 20 digits as the data module reads them: uint8 [20, 1, 8, 8]."""
    images = load_digits().images[:20].astype(np.float32)
    np.save(folder / "digits.npy", np.round(images * 255 / 16).astype(np.uint8)[:, None])
    return folder / "digits.npy"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "ddp", "lr=0.01 seed=1"])
def test_a_finished_run_is_resumed_for_another_epoch(
    store: Store, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = find_run(store, name)
    steps = history(store, before.info.run_id, "train/loss")
    epochs = 3 if name == "plain" else 2
    run(compose_run([f"resume={before.info.run_id}", f"trainer.max_epochs={epochs + 1}"]))
    after = store.client.get_run(before.info.run_id)
    assert after.info.status == "FINISHED"
    assert history(store, before.info.run_id, "train/loss")[: len(steps)] == steps
    assert len(history(store, before.info.run_id, "val/loss")) == epochs + 1


@pytest.mark.parametrize("name", ["plain", "compressed", "ddp"])
def test_a_run_predicts(store: Store, tmp_path: Path, name: str) -> None:
    task, wanted = find_model(store, name)
    table = io.StringIO()
    assert predict(task, wanted, digits_file(tmp_path), table) == 20
    recorded = find_run(store, name).data.metrics["test/accuracy"]
    found = [int(line.split(",")[2]) for line in table.getvalue().splitlines()[1:]]
    assert np.mean(np.array(found) == load_digits().target[:20]) >= recorded - 0.35


def test_a_compressed_file_loads(store: Store) -> None:
    from lightning_modules.compression.artifact import load_compressed

    files = list(store.folder.rglob("model.compressed.safetensors"))
    assert files
    for path in files:
        with torch.inference_mode():
            assert load_compressed(path)(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape == (2, 10)


def test_mlflow_serves_a_model(store: Store, tmp_path: Path) -> None:
    import mlflow

    # elsewhere: MLflow does not find a model in a folder with a '?' in its name
    folder = shutil.copytree(best_checkpoint(store, find_run(store, "plain")).parent, tmp_path / "model")
    scores = mlflow.pyfunc.load_model(str(folder)).predict(np.zeros((2, 1, 8, 8), np.uint8))
    assert scores.shape == (2, 10)
    assert np.allclose(scores.sum(1), 1, atol=1e-5)


@pytest.mark.slow
def test_the_verbs_work(store: Store, command: Callable[..., CompletedProcess[str]]) -> None:
    def answer(script: str, *words: str) -> str:
        done = command(script, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    done = command("rerun.py", "plain", "here=true")
    # the last bits differ between kinds of processor, and the rerun says so
    assert done.returncode == 0 or "cpu: recorded" in done.stdout, done.stdout + done.stderr
    recorded, repeated = (find_run(store, name).data.metrics for name in ("plain", "plain-rerun"))
    learned = [key for key in recorded if key.startswith(("train/", "val/", "test/")) and "/time" not in key]
    assert {key: repeated[key] for key in learned} == pytest.approx({key: recorded[key] for key in learned}, rel=1e-5)
    assert "optimizer.lr" in answer("compare.py", "rates")
    assert "logged to run" in answer("export.py", "plain", "format=onnx")
    assert "INCONCLUSIVE" in command("reproduce.py", "mnist1d/linear", "seeds=2", "judge=true").stdout


@pytest.mark.slow
def test_sweeps_and_interrupted_runs_are_resumed(store: Store, command: Callable[..., CompletedProcess[str]]) -> None:
    done = command("train.py", "-m", "sweep.resume=rates")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 finished" in done.stdout
    done = command("train.py", "resume=interrupted")
    assert done.returncode == 0, done.stdout + done.stderr
    run_id = find_run(store, "interrupted").info.run_id
    losses: list[Any] = history(store, run_id, "val/loss")
    assert len(losses) == 400
    assert store.client.get_run(run_id).info.status == "FINISHED"
