"""Masked language modelling as a run: trained on lines of text, resumed, exported to transformers, and fine-tuned."""

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException
from recorded_runs import newest_run

from lightning_modules.cli import export, predict
from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.config.signals import SignalReceived
from lightning_modules.run.run import run
from lightning_modules.run.serve import load_task
from lightning_modules.task.supervised import Supervised
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.rerun import metric_histories
from lightning_modules.tracking.resume import best_checkpoint
from lightning_modules.tracking.store import open_store
from lightning_modules.zoo.data.text_files import TextLines
from lightning_modules.zoo.data.vocabulary import words
from lightning_modules.zoo.task.masked_language_model import MaskedLanguageModel

pytestmark = pytest.mark.slow  # importing transformers takes seconds

TEXTS = [f"Don't the {a} {b} see {c} birds?" for a in ("red", "old", "sad") for b in ("fox", "owl") for c in "abcdefgh"]
COMMON = ("trainer.max_epochs=2", "tracking.system_metrics_s=null", "tracking.pictures=false", "~callbacks.progress",
          "~callbacks.summary", "callbacks.last.every_s=0", "data.batch_size=8")  # fmt: skip
BERT = ("task=masked_language_model", "model=masked_bert", "model.depth=1", "model.dim=16", "model.heads=2",
        "optimizer.lr=0.01")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Path]:
    """A store, and the texts."""
    path = tmp_path_factory.mktemp("masked") / "store"
    shutil.copytree(empty_database.parent, path)
    (path / "lines.txt").write_text("\n".join([*TEXTS[:20], "", *TEXTS[20:]]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}/mlflow.db")
        yield path


@pytest.fixture(scope="module")
def train(folder: Path) -> Callable[..., Any]:
    def launch(*overrides: str) -> Any:
        lines = ("data=text_lines", f"data.path={folder}/lines.txt", "data.test_fraction=0.2")
        run(compose_run([*COMMON, *lines, *BERT, *overrides]))
        return newest_run(open_store())

    return launch


@pytest.fixture(scope="module")
def trained(train: Any) -> Any:
    return train("name=bert", "trainer.max_epochs=8")


@pytest.fixture(scope="module")
def task(trained: Any) -> MaskedLanguageModel:
    found = load_task(best_checkpoint(open_store(), trained)).eval()
    assert isinstance(found, MaskedLanguageModel)
    return found


@pytest.fixture(scope="module")
def exported(trained: Any, folder: Path) -> Path:
    out = folder / "pretrained"
    export.main([trained.info.run_id, "format=transformers", f"out={out}"])
    return out


def test_hidden_words_are_learned(trained: Any, train: Any) -> None:
    metrics = trained.data.metrics
    assert metrics["val/loss"] == pytest.approx(torch.tensor(metrics["val/perplexity"]).log().item(), rel=1e-5)
    losses = [point.value for point in open_store().client.get_metric_history(trained.info.run_id, "val/loss")]
    assert losses[-1] < losses[0] - 0.5 and metrics["test/perplexity"] < 15 and metrics["test/accuracy"] > 0.2
    with pytest.raises(InstantiationException, match="nats_per_char is not defined for hidden words"):
        train("task.metrics.val=[nats_per_char]")


def test_a_resumed_run_is_bit_equal(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    start, whole = Supervised.on_train_epoch_start, train("name=whole")

    def begin(self: Supervised) -> None:
        start(self)
        if self.current_epoch == 1:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SignalReceived):
        patch.setattr(Supervised, "on_train_epoch_start", begin)
        train("name=cut")
    store = open_store()
    cut = newest_run(store)
    run(compose_run([f"resume={cut.info.run_id}"]))
    weights = [read_checkpoint(best_checkpoint(store, of))["state_dict"] for of in (whole, cut)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    learned = [
        {key: points for key, points in metric_histories(store, of.info.run_id).items() if key.startswith("val/")}
        for of in (whole, cut)
    ]
    assert learned[0] == learned[1] and learned[0]


def test_a_share_of_the_words_is_hidden_and_in_validation_always_the_same(task: MaskedLanguageModel) -> None:
    ids = torch.randint(2, task.vocab_size, (500, 40), generator=torch.Generator().manual_seed(0))
    ids[:, 30:], ids[0] = 0, 0
    hidden, target = task.hide(ids, [3])
    chosen = target >= 0
    assert not chosen[:, 30:].any() and not chosen[0].any() and torch.equal(hidden[~chosen], ids[~chosen])
    assert (chosen[1:].sum(1) == 4).all()  # 15 % of 30, to the even number
    masked = (hidden == task.mask_id)[chosen].float().mean().item()
    kept = (hidden == ids)[chosen].float().mean().item()
    assert masked == pytest.approx(0.8, abs=0.03) and kept == pytest.approx(0.1, abs=0.03)
    assert not torch.equal(task.hide(ids, [4])[0], hidden)
    batch = {"x": task.preprocess.encode(TEXTS[:6]), "y": torch.zeros(6)}  # type: ignore[operator]
    found = []
    for rows in (range(6), (5, 2)):
        task._buffer_predictions("test", {key: value[list(rows)] for key, value in batch.items()})
        found.append(task.prediction_buffers["test"].collect(None)[0])
    assert torch.allclose(found[0][[5, 2]], found[1], atol=1e-5)


def test_the_exported_folder_is_read_by_transformers(task: MaskedLanguageModel, exported: Path) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    texts = [*TEXTS[:3], "Isn't a 'dog'  — OWL_2!", "it’s well… fox", "", "हिन्दी", "cafe\u0301 is", "สวัสดี"]
    tokenizer, network = AutoTokenizer.from_pretrained(exported), AutoModelForMaskedLM.from_pretrained(exported).eval()
    known = set(task.preprocess.words)  # type: ignore[operator, arg-type]
    for text in texts:
        assert tokenizer.tokenize(text) == [word if word in known else "[UNK]" for word in words(text)]
    cut = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        ours = task(task.preprocess.encode(texts))  # type: ignore[operator]
        theirs = network(**cut).logits[:, 1:-1, : task.vocab_size]
    for row, (text, mine) in enumerate(zip(texts, ours, strict=True)):
        count = min(len(words(text)), theirs.shape[1], task.preprocess.length)  # type: ignore[type-var]
        assert torch.allclose(mine[:count], theirs[row, :count], atol=1e-5)
    for words_of_it, message in (
        (["format=transformers", f"out={exported}"], "exists already"),
        (["format=transformers", "quantized=true"], "quantized=true: not for format=transformers"),
        (["out=folder"], "out: only for format=transformers"),
    ):
        with pytest.raises(UserError, match=message):
            export.main(["bert", *words_of_it])
    with pytest.raises(UserError, match="bert is a masked language model: touchstone export bert"):
        predict.main(["bert", f"input={exported}"])


def test_a_classifier_starts_from_the_exported_weights(exported: Path, folder: Path) -> None:
    from transformers import AutoModelForMaskedLM

    rows = [f"{text},{'fox' if 'fox' in text else 'owl'}" for text in TEXTS]
    (folder / "labelled.csv").write_text("\n".join(["text,label", *rows]))
    data = ("data=text_file", f"data.path={folder}/labelled.csv", f"data.tokenizer={exported}")
    run(compose_run([*COMMON, *data, "model=hf_text", "optimizer.lr=0.01", "trainer.max_epochs=0", "name=tuned"]))
    tuned = load_task(best_checkpoint(open_store(), newest_run(open_store())))
    own: Any = tuned.model.network.bert.embeddings.word_embeddings.weight  # type: ignore[union-attr]
    before = AutoModelForMaskedLM.from_pretrained(exported).bert.embeddings.word_embeddings.weight
    assert torch.equal(own, before)


def test_texts_that_cannot_be_used_are_named(train: Any, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    TextLines(path=f"{folder}/lines.txt").setup()
    assert "lines.txt: left out 1 empty lines" in caplog.text
    (folder / "empty.txt").write_text(" \n\n")
    for name, message in (("empty.txt", "empty.txt is empty: expected one text per line"), ("no.txt", "no.txt")):
        with pytest.raises(UserError, match=message):
            train(f"data.path={folder}/{name}")
    with pytest.raises(InstantiationException, match="task=masked_language_model needs model=masked_bert"):
        train("model=text_transformer")
