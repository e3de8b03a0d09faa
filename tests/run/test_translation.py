"""Translation as a run: recorded, resumed, divided over ranks, swept, compared, predicted, exported."""

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hydra.errors import InstantiationException
from multirun import multirun
from optional_package import require_package
from recorded_runs import artifacts, newest_run

from lightning_modules.cli import predict
from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.config.signals import SignalReceived
from lightning_modules.run.run import run
from lightning_modules.run.serve import load_module, load_task
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.rerun import metric_histories
from lightning_modules.tracking.resume import best_checkpoint
from lightning_modules.tracking.store import open_store

pytestmark = pytest.mark.slow  # of the extra `text`
QUICK = (
    "data=parallel_text", "data.val=null", "data.test=null", "data.test_fraction=0.1", "data.batch_size=32",
    "model.dim=32", "model.hidden=32", "task=translation",
    "optimizer.lr=1e-2", "trainer.max_epochs=2", "callbacks=[default,sample_translations,test_predictions]",
    "callbacks.last.every_s=0", "tracking.system_metrics_s=null",
    "tracking.pictures=false", "~callbacks.progress", "~callbacks.summary",
)  # fmt: skip
NETWORKS = {"transformer": ("model=translation_transformer", "model.depth=1"), "gru": ("model=attention_gru",)}
STOP = ("+callbacks.stop._target_=kill_once_callbacks.StopOnce", "+callbacks.stop.batch=1")
WORDS = {"Hund": "dog", "Vogel": "bird", "Mann": "man", "alte": "old", "rote": "red", "kleine": "small"}
GERMAN = [
    f"Der {a} {b} {verb} {'sehr ' * (i % 3)}{i % 5} Tage."
    for i in range(10)
    for a in ("alte", "rote", "kleine")
    for b in ("Hund", "Vogel", "Mann")
    for verb in ("läuft", "schläft")
]


def english(text: str) -> str:
    _, a, b, verb, *rest = text.split()
    very = "very " * rest.count("sehr")
    return f"The {WORDS[a]} {WORDS[b]} {'runs' if verb == 'läuft' else 'sleeps'} for {rest[-2]} {very}long days."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Path]:
    """A store, and parallel text."""
    require_package("sacrebleu")
    path = tmp_path_factory.mktemp("translation") / "store"
    shutil.copytree(empty_database.parent, path)
    (path / "train.de").write_text("\n".join(GERMAN))
    (path / "train.en").write_text("\n".join(map(english, GERMAN)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}/mlflow.db")
        yield path


@pytest.fixture(scope="module")
def train(folder: Path) -> Callable[..., Any]:
    def launch(*overrides: str, network: str = "transformer") -> Any:
        run(compose_run([*QUICK, *NETWORKS[network], f"data.path={folder}", *overrides]))
        return newest_run(open_store())

    return launch


@pytest.fixture(scope="module")
def trained(train: Any) -> Any:
    return train("name=translator", "trainer.max_epochs=25")


def test_it_learns_and_bleu_and_chrf_are_those_of_sacrebleu_on_the_texts(
    trained: Any, folder: Path, tmp_path: Path
) -> None:
    from sacrebleu.metrics import BLEU, CHRF

    metrics, tags = trained.data.metrics, trained.data.tags
    assert metrics["val/bleu"] > 80 and 0 < metrics["train/padding"] < 0.1
    index = pd.read_parquet(artifacts(trained) / "predictions" / "test.parquet")["sample"]
    (tmp_path / "test.txt").write_text("\n".join(GERMAN[i] for i in index))
    found = predict.main([trained.info.run_id, f"input={tmp_path}/test.txt"])["predictions"]
    translations = [row["translation"] for row in found]
    references = [[english(GERMAN[i]) for i in index]]
    for name, score in (("bleu", BLEU()), ("chrf", CHRF())):
        assert metrics[f"test/{name}"] == pytest.approx(score.corpus_score(translations, references).score, abs=1e-4)
        assert tags[f"sacrebleu.{name}"] == str(score.get_signature())
    points = metric_histories(open_store(), trained.info.run_id)["val/bleu"]
    checkpoint = read_checkpoint(best_checkpoint(open_store(), trained))
    best = max(value for _, value in points)
    assert checkpoint["global_step"] in [step for step, value in points if value == best]


def test_translations_are_a_table_of_the_run(trained: Any) -> None:
    table = pd.DataFrame(**json.loads((artifacts(trained) / "samples" / "translations.json").read_text()))
    assert len(table) == 5 * 25 and table["reference"].tolist() == table["source"].map(english).tolist()
    last = table.tail(5)
    assert last["translation"].tolist() == last["reference"].tolist()
    assert table["translation"].iloc[0] != table["reference"].iloc[0]


def test_predict_translates_each_line_and_names_what_it_cannot(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, out = tmp_path / "texts.txt", tmp_path / "out.csv"
    texts.write_text(f"{GERMAN[0]}\nDer alte Elefant läuft 3 Tage.\n{GERMAN[1]} {GERMAN[2]}\n")
    predict.main(["translator", f"input={texts}", f"output={out}"])
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert rows[0]["translation"].startswith("The old dog runs for") and [row["sample"] for row in rows] == [
        "0",
        "1",
        "2",
    ]
    assert "<unk>" not in out.read_text()
    said = capsys.readouterr().err
    assert f"{texts}: 1 words are unknown to the model" in said
    assert "1 lines are longer than the 12 tokens of the model and truncated; the first is line 3" in said
    texts.write_text("Der Hund\n\n")
    with pytest.raises(UserError, match=r"texts\.txt, line 2: the line is empty; expected a sentence"):
        predict.main(["translator", f"input={texts}"])
    texts.write_text("")
    with pytest.raises(UserError, match=r"texts\.txt, line 1: the line is empty; expected a sentence"):
        predict.main(["translator", f"input={texts}"])
    with pytest.raises(UserError, match="encoding=cp1252: translator detects it for each file"):
        predict.main(["translator", f"input={texts}", "encoding=cp1252"])
    with pytest.raises(UserError, match="a translation draws nothing; remove it"):
        predict.main(["translator", f"input={texts}", f"pictures={tmp_path}"])


@pytest.mark.parametrize("network", NETWORKS)
def test_a_killed_and_resumed_run_is_bit_equal(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "kill_once_callbacks")
    words = ("data.tokenizer=bpe", "data.vocab_size=270", "data.lowercase=true") if network == "gru" else ()
    whole = train(*words, "name=whole", network=network)
    with pytest.raises(SignalReceived):
        train(*words, "name=cut", *STOP, f"+callbacks.stop.mark={tmp_path}/stopped", network=network)
    cut = newest_run(open_store())
    run(compose_run([f"resume={cut.info.run_id}"]))
    first, second = (read_checkpoint(best_checkpoint(open_store(), one))["state_dict"] for one in (whole, cut))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    histories = [metric_histories(open_store(), one.info.run_id) for one in (whole, cut)]
    for name in ("val/bleu", "val/loss", "test/chrf"):
        assert histories[0][name] == histories[1][name], name


def test_two_ranks_translate_each_sentence_once_and_log_what_one_does(train: Any, trained: Any) -> None:
    weights = ("callbacks=default", "trainer.max_epochs=0", f"init_from={trained.info.run_id}")
    one = train(*weights, "name=one")
    two = train(*weights, "name=two", "trainer=ddp", "trainer.devices=2", "strategy.start_method=fork")
    names = [name for name in one.data.metrics if name.startswith("test/")]
    assert len(names) == 5
    for name in names:
        assert two.data.metrics[name] == pytest.approx(one.data.metrics[name], abs=1e-5), name


def test_a_sweep_over_two_values_is_compared_by_bleu(folder: Path) -> None:
    from lightning_modules.api import compare

    swept = ("optimizer.lr=0.01,0.001", "sweep.name=rates", "trainer.max_epochs=1")
    multirun([*QUICK, *NETWORKS["transformer"], f"data.path={folder}", *swept])
    table = compare("rates", metric="test/bleu", by=["optimizer.lr"])
    assert {str(rate) for rate in table["optimizer.lr"]} == {"0.01", "0.001"} and table["n"].tolist() == [1, 1]


@pytest.mark.parametrize("network", NETWORKS)
def test_an_onnx_file_gives_the_same_logits_that_of_a_transformer_for_any_length(
    train: Any, trained: Any, tmp_path: Path, network: str
) -> None:
    from lightning_modules.export.export import export_run
    from lightning_modules.export.runtime import load_exported

    store, recorded = open_store(), trained
    if network == "gru":
        recorded = train("trainer.max_epochs=1", network=network)
    found, _ = export_run(store, recorded, "onnx", False, tmp_path)
    assert found.agreement.max_error < 1e-4
    exported, task = load_exported(tmp_path / "model.onnx"), load_task(best_checkpoint(store, recorded))
    for shape in ((1, 2, 12), (3, 2, 5 if network == "transformer" else 12)):
        x = torch.randint(3, 9, shape, dtype=torch.int32)
        x[:, :, -2:] = 0
        with torch.inference_mode():
            torch.testing.assert_close(exported(x)[:, : shape[2] - 2], task(x)[:, : shape[2] - 2], rtol=0, atol=1e-4)


def test_the_served_model_returns_logits(trained: Any) -> None:
    import mlflow

    task: Any = load_module(best_checkpoint(open_store(), trained))
    x = torch.randint(3, 9, (2, 2, 12), dtype=torch.int32)
    served: Any = mlflow.pyfunc.load_model(f"models:/{trained.data.tags['touchstone.model_id']}")
    with torch.no_grad():
        torch.testing.assert_close(torch.as_tensor(served.predict(x.numpy())), task(x), rtol=0, atol=1e-5)


def test_combinations_that_do_not_fit_are_named(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InstantiationException, match="the data have no pairs of sentences; try data=parallel_text"):
        run(compose_run(["data=tabular", "data.name=diabetes", "model=mlp", "task=translation"]))
    with pytest.raises(InstantiationException, match=r"model=attention_gru needs pairs of sentences \[2, T\]"):
        run(compose_run(["data=tabular", "data.name=diabetes", "model=attention_gru", "task=translation"]))
    with pytest.raises(Exception, match=r"unknown metric 'bleau' for translation; did you mean 'bleu'"):
        train("task.metrics.val=[bleau]")
    monkeypatch.setattr("lightning_modules.zoo.task.translation_metrics.find_spec", lambda _: None)
    with pytest.raises(Exception, match=r"bleu and chrf need sacrebleu: pip install -e '\.\[text\]'"):
        train()
