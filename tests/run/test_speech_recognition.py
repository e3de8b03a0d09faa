"""Speech recognition as a run: recorded, resumed, divided over ranks, swept, exported, and recordings transcribed."""

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from recorded_runs import artifacts, newest_run
from synthetic_audio import write_spoken_digits, write_wav

from lightning_modules.cli import predict
from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.config.signals import SignalReceived
from lightning_modules.run.run import run
from lightning_modules.run.serve import load_task
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.rerun import metric_histories
from lightning_modules.tracking.resume import best_checkpoint
from lightning_modules.tracking.store import open_store

pytestmark = pytest.mark.slow
QUICK = (
    "data=digit_strings", "data.held_out=cid", "data.num_train=24", "data.num_val=6", "data.num_test=7",
    "data.min_digits=1", "data.max_digits=2", "data.max_pause=0.1", "data.batch_size=6", "data.n_mels=20", "data.hop=160",
    "model=speech_gru", "model.channels=32", "model.hidden_size=48", "model.num_layers=1", "model.stride=1",
    "task=speech_recognition", "augmentation=speech", "steps_per_call=1", "optimizer.lr=5e-3", "trainer.max_epochs=2",
    "callbacks=[default,transcripts,test_predictions]", "callbacks.last.every_s=0", "callbacks.transcripts.count=3",
    "tracking.system_metrics_s=null", "~callbacks.progress", "~callbacks.summary",
)  # fmt: skip
STOP = ("+callbacks.stop._target_=kill_once_callbacks.StopOnce", "+callbacks.stop.batch=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Path]:
    """A store, and digits of three speakers, each digit a tone."""
    path = tmp_path_factory.mktemp("speech") / "store"
    shutil.copytree(empty_database.parent, path)
    write_spoken_digits(path, indices=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}/mlflow.db")
        yield path


@pytest.fixture(scope="module")
def train(folder: Path) -> Callable[..., Any]:
    def launch(*overrides: str) -> Any:
        run(compose_run([*QUICK, f"data.root={folder}", *overrides]))
        return newest_run(open_store())

    return launch


@pytest.fixture(scope="module")
def trained(train: Any) -> Any:
    return train("name=digits", "augmentation=none", "data.num_train=120", "trainer.max_epochs=8")


def test_it_learns_and_the_best_weights_are_those_of_the_lowest_error_rate(trained: Any) -> None:
    history = open_store().client.get_metric_history(trained.info.run_id, "val/cer")
    assert len(history) == 8
    best = min(point.value for point in history)
    losses = open_store().client.get_metric_history(trained.info.run_id, "val/loss")
    assert losses[-1].value < losses[0].value  # a few steps on tones; experiments/spoken_strings is of speech
    weights = read_checkpoint(best_checkpoint(open_store(), trained))
    assert weights["epoch"] == [point.value for point in history].index(best)
    assert {"val/wer", "val/loss", "test/wer", "test/loss"} <= set(trained.data.metrics)
    table = json.loads((artifacts(trained) / "samples" / "transcripts.json").read_text())
    shown = pd.DataFrame(**table)
    assert len(shown) == 8 * 3 and list(shown) == ["step", "reference", "hypothesis", "file"]


def test_the_test_has_a_row_for_each_recording_that_gives_its_error_rates(trained: Any) -> None:
    rows = pd.read_csv(artifacts(trained) / "predictions" / "transcripts.csv", keep_default_na=False)
    assert rows["file"].tolist() == [f"digit_strings test {i}" for i in range(7)]
    characters = rows["reference"].str.len()
    assert np.average(rows["cer"], weights=characters) == pytest.approx(trained.data.metrics["test/cer"], abs=1e-5)
    words = rows["reference"].str.split().str.len()
    assert np.average(rows["wer"], weights=words) == pytest.approx(trained.data.metrics["test/wer"], abs=1e-5)
    predictions = pd.read_parquet(artifacts(trained) / "predictions" / "test.parquet")
    assert predictions["prediction/cer"].tolist() == pytest.approx(rows["cer"].tolist())
    assert predictions["loss"].mean() == pytest.approx(trained.data.metrics["test/loss"], rel=1e-5)


def test_predict_transcribes_files_of_any_rate_and_length(trained: Any, folder: Path, tmp_path: Path) -> None:
    task: Any = load_task(best_checkpoint(open_store(), trained))
    from lightning_modules.run import build

    cfg = compose_run([*QUICK, f"data.root={folder}"])
    x = build.build_data(cfg).arrays.x[:3]
    expected = [task.transcribe(one[None]) for one in x]
    for i, one in enumerate(x):
        write_wav(tmp_path / "in" / f"{i}.wav", one[one != -32768].numpy())
    out = tmp_path / "texts.csv"
    predict.main([trained.info.run_id, f"input={tmp_path}/in", f"output={out}"])
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert [[row["text"]] for row in rows] == expected
    assert [Path(row["file"]).name for row in rows] == ["0.wav", "1.wav", "2.wav"]
    (tmp_path / "in" / "3.wav").write_bytes(b"x")
    with pytest.raises(UserError, match=r"3\.wav cannot be read as an audio file"):
        predict.main([trained.info.run_id, f"input={tmp_path}/in"])


def test_an_onnx_file_takes_recordings_of_any_length(trained: Any, tmp_path: Path) -> None:
    from lightning_modules.export.export import export_run
    from lightning_modules.export.runtime import load_exported

    store = open_store()
    found, _ = export_run(store, trained, "onnx", False, tmp_path)
    assert found.agreement.max_error < 1e-3
    exported, task = load_exported(tmp_path / "model.onnx"), load_task(best_checkpoint(store, trained))
    for shape in ((1, 4000), (3, 9111)):
        x = torch.randint(-3000, 3000, shape, dtype=torch.int16)
        x[-1, 3000:] = -32768
        with torch.inference_mode():
            torch.testing.assert_close(exported(x), task(x), rtol=0, atol=1e-3)


def test_a_beam_gives_a_loss_that_is_equal_and_texts_that_are_no_less_likely(train: Any, trained: Any) -> None:
    words = (
        f"init_from={trained.info.run_id}",
        "trainer.max_epochs=0",
        "data.num_train=120",
        "callbacks.transcripts=null",
    )
    beam = train(*words, "task.beam_width=8").data.metrics
    assert beam["test/loss"] == pytest.approx(trained.data.metrics["test/loss"], rel=1e-5)
    assert beam["test/cer"] <= trained.data.metrics["test/cer"] + 0.1


def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "kill_once_callbacks")
    whole = train("name=whole")
    with pytest.raises(SignalReceived):
        train("name=cut", *STOP, f"+callbacks.stop.mark={tmp_path}/stopped")
    cut = newest_run(open_store())
    run(compose_run([f"resume={cut.info.run_id}"]))
    cut = open_store().client.get_run(cut.info.run_id)
    first, second = (
        read_checkpoint(artifacts(one) / "checkpoints" / "last.ckpt")["state_dict"] for one in (whole, cut)
    )
    assert [key for key, value in first.items() if not torch.equal(value, second[key])] == []
    histories = [metric_histories(open_store(), one.info.run_id) for one in (whole, cut)]
    for name in ("val/cer", "val/loss", "train/loss"):
        assert histories[0][name] == histories[1][name]
    tables = [(artifacts(one) / "samples" / "transcripts.json").read_text() for one in (whole, cut)]
    assert tables[0] == tables[1]


def test_two_ranks_transcribe_each_recording_once(train: Any, trained: Any) -> None:
    words = ("trainer.max_epochs=0", "data.num_train=120", f"init_from={trained.info.run_id}")
    two = train(*words, "name=two", "trainer=ddp", "trainer.devices=2", "strategy.start_method=fork")
    for name in ("test/cer", "test/wer", "test/loss"):
        assert two.data.metrics[name] == pytest.approx(trained.data.metrics[name], abs=1e-5), name
    tables = [(artifacts(one) / "predictions" / "transcripts.csv").read_text() for one in (two, trained)]
    assert tables[0] == tables[1]


def test_a_sweep_over_two_values_is_compared_by_error_rate(folder: Path) -> None:
    from multirun import multirun

    from lightning_modules.api import compare

    words = [*QUICK, f"data.root={folder}", "trainer.max_epochs=1"]
    multirun([*words, "model.hidden_size=8,12", "sweep.name=sizes"])
    table = compare("sizes", metric="test/cer", by=["model.hidden_size"])
    assert sorted(str(size) for size in table["model.hidden_size"]) == ["12", "8"]
