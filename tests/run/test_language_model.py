"""A language model as a run: recorded, resumed, sampled from, exported, compressed and taught."""

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from recorded_runs import artifacts, newest_run

from lightning_modules.cli import generate as verb
from lightning_modules.cli import predict
from lightning_modules.cli.completion import complete
from lightning_modules.compression.compressed_state import CompressedState
from lightning_modules.compression.stage import StageContext
from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.config.signals import SignalReceived
from lightning_modules.run.run import run
from lightning_modules.run.serve import load_module, load_task
from lightning_modules.task.supervised import Supervised
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.rerun import metric_histories
from lightning_modules.tracking.resume import best_checkpoint
from lightning_modules.tracking.store import open_store

TEXT = "".join(
    f"The {a} {b} sees {c} birds.\n" for a in ("red", "old", "sad") for b in ("fox", "owl") for c in range(40)
)
QUICK = (
    "data=packed_text", "data.block=16", "data.test_fraction=0.1", "data.batch_size=32", "model=gpt", "model.depth=1",
    "model.dim=16", "model.heads=2", "task=language_model", "trainer.max_epochs=2", "callbacks=[default,sample_texts]",
    "callbacks.sample_texts.max_new_tokens=20", "callbacks.last.every_s=0", "decay_norms_and_biases=false",
    "scheduler=cosine", "scheduler.warmup_steps=3", "tracking.system_metrics_s=null", "tracking.pictures=false",
    "~callbacks.progress", "~callbacks.summary",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Path]:
    """A store, and the text."""
    path = tmp_path_factory.mktemp("language") / "store"
    shutil.copytree(empty_database.parent, path)
    (path / "story.txt").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}/mlflow.db")
        yield path


@pytest.fixture(scope="module")
def train(folder: Path) -> Callable[..., Any]:
    def launch(*overrides: str) -> Any:
        run(compose_run([*QUICK, f"data.path={folder}/story.txt", *overrides]))
        return newest_run(open_store())

    return launch


@pytest.fixture(scope="module")
def trained(train: Any) -> Any:
    return train("name=gpt")


def table(recorded: Any) -> pd.DataFrame:
    file = artifacts(recorded) / "samples" / "texts.json"
    return pd.DataFrame(**json.loads(file.read_text()))


def test_nats_per_token_and_per_character_texts_and_groups_of_parameters_are_recorded(trained: Any) -> None:
    metrics = trained.data.metrics
    assert (
        metrics["val/loss"]
        == metrics["val/nats_per_char"]
        == pytest.approx(np.log(metrics["val/perplexity"]), rel=1e-5)
    )
    assert metrics["test/bits_per_char"] == pytest.approx(metrics["test/nats_per_char"] / np.log(2), rel=1e-6)
    assert metrics["val/loss"] < np.log(29)
    texts = table(trained)
    steps = [int(point.step) for point in open_store().client.get_metric_history(trained.info.run_id, "val/loss")]
    assert texts["step"].tolist() == steps and texts["text"].str.len().tolist() == [20, 20]
    tables = json.loads(trained.data.tags["mlflow.loggedArtifacts"])
    assert tables == [{"path": "samples/texts.json", "type": "table"}]
    checkpoint = read_checkpoint(artifacts(trained) / "checkpoints" / "last.ckpt")
    decays = [group["weight_decay"] for group in checkpoint["optimizer_states"][0]["param_groups"]]
    assert decays == [0.01, 0.0]


def test_stages_weigh_by_the_loss_of_training(trained: Any) -> None:
    task: Any = load_task(best_checkpoint(open_store(), trained)).eval()
    x = torch.randint(0, task.num_outputs, (3, 16), dtype=torch.int32)
    context = StageContext(task, CompressedState(), x, lambda: iter([]))
    with torch.no_grad():
        loss = context.loss({"x": x, "y": x.flip(1)}, label_smoothing=False)
        expected = torch.nn.functional.cross_entropy(task(x).flatten(0, 1), x.flip(1).flatten().long())
    assert torch.allclose(loss, expected)


def test_generate_needs_neither_text_nor_config(trained: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hidden = folder / "story.txt"
    hidden.rename(folder / "elsewhere.txt")
    try:
        found = [verb.main(["gpt", "prompt=The ", "max_new_tokens=30", f"seed={seed}"]) for seed in (1, 1, 2)]
    finally:
        (folder / "elsewhere.txt").rename(hidden)
    assert found[0] == found[1] != found[2] and len(found[0]["text"]) == 30
    assert capsys.readouterr().out.startswith(f"The {found[0]['text']}\n")
    assert complete("touchstone generate gp", []) == ["gpt"]
    with pytest.raises(UserError, match="gpt is a language model, which continues texts: touchstone generate"):
        predict.main(["gpt", f"input={hidden}"])
    for words, message in (
        (["prompt=ÄÖ"], r"lacks 'Ä' 'Ö'"),
        (["prompt="], "prompt=: the value is empty"),
        (["temperature=-1", "top_p=2"], r"(?s)temperature=-1: .*top_p=2: "),
        (["top_k=0"], "top_k=0: "),
    ):
        with pytest.raises(UserError, match=message):
            verb.main(["gpt", *words])


def test_a_resumed_run_is_bit_equal_and_repeats_no_row_of_the_table(
    train: Any, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Supervised.on_train_epoch_start

    def begin(self: Supervised) -> None:
        start(self)
        if self.current_epoch == 1:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SignalReceived):
        patch.setattr(Supervised, "on_train_epoch_start", begin)
        train("name=cut")
    store = open_store()
    killed = newest_run(store)
    file = artifacts(killed) / "samples" / "texts.json"
    written = json.loads(file.read_text())  # as if it were killed after a validation and before its checkpoint
    file.write_text(json.dumps({**written, "data": [*written["data"], [10**6, "\n", "lost"]]}))
    run(compose_run([f"resume={killed.info.run_id}"]))
    assert metric_histories(store, killed.info.run_id) == metric_histories(store, trained.info.run_id)
    ours, theirs = (read_checkpoint(best_checkpoint(store, one))["state_dict"] for one in (killed, trained))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    pd.testing.assert_frame_equal(table(killed), table(trained))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=language_model"], r"task=language_model: the targets of digits are classes; try task=classification"),
        (["data=packed_text", "task=language_model", "model=mlp"], r"MLP does not accept samples of shape \(64,\)"),
        (["model=gpt", "task=classification"], r"model=gpt needs tokens \[T\]"),
    ],
)
def test_parts_that_do_not_fit_are_one_message_before_the_first_step(
    folder: Path, words: list[str], message: str
) -> None:
    more = [f"data.path={folder}/story.txt"] if "data=packed_text" in words else []
    with pytest.raises(Exception, match=message) as caught:
        run(compose_run([*words, *more, "tracking=none"]))
    assert UserError in (type(caught.value), type(caught.value.__cause__))


def test_a_run_cannot_be_resumed_where_its_file_has_another_vocabulary(trained: Any, folder: Path) -> None:
    words = [f"resume={trained.info.run_id}", "trainer.max_epochs=3"]
    (folder / "story.txt").write_text(TEXT.replace("w", "#"))  # of the same size
    try:
        for more, message in (
            ([], "fingerprint"),
            (["resume.allow=[data]"], r"story\.txt has another vocabulary than"),
        ):
            with pytest.raises(UserError, match=message):
                run(compose_run([*words, *more]))
    finally:
        (folder / "story.txt").write_text(TEXT)


@pytest.mark.slow
def test_byte_pairs_count_characters(train: Any) -> None:
    metrics = train("data.tokenizer=bpe", "data.vocab_size=300").data.metrics
    assert metrics["val/nats_per_char"] < 0.8 * metrics["val/loss"]
    assert metrics["val/perplexity"] == pytest.approx(np.exp(metrics["val/loss"]), rel=1e-4)


@pytest.mark.slow
def test_two_ranks_count_each_window_once(train: Any, trained: Any) -> None:
    words = ("strategy=ddp", "trainer.devices=2", "trainer.max_epochs=1", "data.batch_size=16")
    assert train(*words).data.metrics["val/loss"] == pytest.approx(
        train("trainer.max_epochs=1").data.metrics["val/loss"], abs=0.01
    )


@pytest.mark.slow
def test_an_onnx_file_takes_texts_of_any_length_and_gives_the_same_logits(trained: Any, tmp_path: Path) -> None:
    from lightning_modules.export.export import export_run
    from lightning_modules.export.runtime import load_exported

    store = open_store()
    found, _ = export_run(store, trained, "onnx", False, tmp_path)
    assert found.agreement.max_error < 1e-4
    exported, task = load_exported(tmp_path / "model.onnx"), load_task(best_checkpoint(store, trained))
    for shape in ((1, 16), (3, 5), (2, 1)):
        x = torch.randint(0, 20, shape, dtype=torch.int32)
        with torch.inference_mode():
            torch.testing.assert_close(exported(x), task(x), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_int8_and_a_student_of_the_language_model(train: Any, trained: Any, folder: Path) -> None:
    int8 = train("compression=int8_dynamic")
    assert int8.data.metrics["compressed/test/loss"] == pytest.approx(int8.data.metrics["dense/test/loss"], abs=0.05)
    model_id = next(value for key, value in int8.data.tags.items() if "compressed" in key and value.startswith("m-"))
    assert len(verb.main([f"models:/{model_id}", "prompt=The ", "max_new_tokens=20"])["text"]) == 20
    teach = ("model.dim=8", "compression=distillation", "compression.stages.distil.teacher=gpt")
    student = train(*teach)
    assert student.info.status == "FINISHED" and np.isfinite(student.data.metrics["test/loss"])
    (folder / "other.txt").write_text(TEXT.replace("w", "#"))
    with pytest.raises(UserError, match=r"teacher=gpt has the classes"):
        train(*teach, f"data.path={folder}/other.txt")


@pytest.mark.slow
def test_the_served_model_returns_the_logits(trained: Any) -> None:
    import mlflow

    path = best_checkpoint(open_store(), trained)
    served = mlflow.pyfunc.load_model(str(path.parent))
    x = torch.randint(0, 20, (3, 16), dtype=torch.int32)
    task: Any = load_module(path)
    with torch.inference_mode():
        np.testing.assert_allclose(served.predict(x.numpy()), task(x).numpy(), atol=1e-5)


@pytest.mark.slow
def test_a_sweep_over_seeds_is_compared_by_bits_per_character(folder: Path, train: Any) -> None:
    from multirun import multirun

    from lightning_modules.api import compare

    words = [*QUICK, f"data.path={folder}/story.txt", "trainer.max_epochs=1", "seed=0,1", "model.dim=8,16"]
    multirun([*words, "sweep.name=widths"])
    table = compare("widths", metric="test/bits_per_char", by=["model.dim"])
    assert [str(dim) for dim in table["model.dim"]] == ["16", "8"] and table["n"].tolist() == [2, 2]


@pytest.mark.slow
def test_predictions_and_data_quality_have_a_row_for_each_window(train: Any, folder: Path, command: Any) -> None:
    recorded = train("callbacks=[default,sample_texts,test_predictions]", "trainer.max_epochs=1")
    file = artifacts(recorded) / "predictions" / "test.parquet"
    predictions = pd.read_parquet(file)
    assert {"sample", "prediction/nats", "prediction/characters", "loss"} <= set(predictions)
    assert predictions["loss"].mean() == pytest.approx(recorded.data.metrics["test/loss"], rel=1e-5)
    done = command("data.py", "inspect", "data=packed_text", f"data.path={folder}/story.txt", "data.block=16")
    assert (
        done.returncode == 0
        and "unused" not in done.stdout
        and "label errors: the targets are not classes" in done.stdout
    )
