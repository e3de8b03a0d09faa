"""Parallel text in batches of similar length, the networks of a translation, and the best of a beam."""

import gzip
import itertools
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data.parallel_text import ParallelText, SequencePairs
from lightning_modules.zoo.data.sentence_pairs import BOS, EOS, PAD, SPECIAL, SentencePairs, decoder_input, fit_words
from lightning_modules.zoo.model.translation import AttentionGRU, EncoderDecoder, TranslationTransformer
from lightning_modules.zoo.task.beam_search import beam_search, length_penalty

GERMAN = [f"Ein {'sehr ' * (i % 7)}alter Hund, Nummer {i % 9}." for i in range(200)]
ENGLISH = [f"A {'very ' * (i % 7)}old dog is number {i % 9}{' !' * (i % 3)}" for i in range(200)]


def write(folder: Path, part: str, german: list[str], english: list[str]) -> None:
    (folder / f"{part}.de").write_text("".join(f"{line}\n" for line in german))
    (folder / f"{part}.en").write_text("".join(f"{line}\n" for line in english))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "train", GERMAN[:160], ENGLISH[:160])
    write(tmp_path, "val", GERMAN[160:180], ENGLISH[160:180])
    write(tmp_path, "test", GERMAN[180:], [f"{line} Zebra's" for line in ENGLISH[180:]])
    return tmp_path


def parallel(folder: Path, **settings: Any) -> ParallelText:
    data = ParallelText(path=str(folder), **{"batch_size": 8, "eval_batch_size": 8, **settings})
    data.setup()
    return data


# --- data ----------------------------------------------------------------------------------------------------------
def test_samples_are_the_source_and_the_shifted_target_and_references_are_the_texts_of_the_files(folder: Path) -> None:
    data = parallel(folder)
    assert {part: len(index) for part, index in data.splits.items()} == {"train": 160, "val": 20, "test": 20}
    for loader, first, part in ((data.train_dataloader(), 0, "train"), (data.test_dataloader(), 180, "test")):
        for batch in loader:  # type: ignore[union-attr]
            for x, y, i in zip(batch["x"], batch["y"], batch["index"].tolist(), strict=True):
                assert data.sample_text(x) == GERMAN[first + i]
                target = y[y >= 0]
                assert target[-1] == EOS and x[1][0] == BOS and torch.equal(x[1][1 : len(target)], target[:-1])
                if part == "train":
                    assert data.pairs.to_text(target) == ENGLISH[i]
            assert ("reference" in batch) == (part == "test")
    assert data.reference("test", 3) == f"{ENGLISH[183]} Zebra's"
    assert "Zebra" not in json.dumps(data.pairs.target.tokens)  # fitted on the training part only


def test_batches_have_little_padding_and_the_order_is_a_function_of_seed_and_epoch(folder: Path) -> None:
    def batches(epoch: int, rank: int = 0, ranks: int = 1, **settings: Any) -> list[dict[str, Tensor]]:
        data = parallel(folder, seed=3, **settings)
        data.trainer = Namespace(distributed_sampler_kwargs={"rank": rank, "num_replicas": ranks})  # type: ignore[assignment]
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        return list(loader)

    def order(*how: Any, **settings: Any) -> list[int]:
        return [int(i) for batch in batches(*how, **settings) for i in batch["index"]]

    def padding(pool: int) -> float:
        masks = [batch["x"] != PAD for batch in batches(0, pool=pool)]
        return 1 - sum(int(m.sum()) for m in masks) / sum(len(m) * int(m.any(0).sum()) for m in masks)

    assert order(1) == order(1) != order(2) and sorted(order(1)) == list(range(160))
    assert sorted(order(1, 0, 2) + order(1, 1, 2)) == list(range(160))  # each once
    together = [
        torch.cat(pair).tolist() for pair in zip(*[[b["index"] for b in batches(1, r, 2)] for r in (0, 1)], strict=True)
    ]
    assert {frozenset(b) for b in together} == {frozenset(b["index"].tolist()) for b in batches(1, batch_size=16)}
    assert padding(20) < 0.1 < 0.2 < padding(1)
    assert order(1, order="fixed") == order(2, order="fixed")
    kept = [order(epoch, drop_last=True, batch_size=36) for epoch in range(12)]  # 16 are left out, others in each epoch
    assert {len(one) for one in kept} == {144} and {i for one in kept for i in one} == set(range(160))
    widths = [batch["x"].shape[2] for batch in batches(0)]
    assert widths != sorted(widths) and len(set(widths)) > 3  # batches are shuffled


def test_the_fingerprint_covers_texts_split_and_vocabularies(folder: Path) -> None:
    first = parallel(folder).fingerprint()
    assert parallel(folder, pool=3).fingerprint() == first
    others = [
        parallel(folder, **how)
        for how in ({"min_count": 20}, {"lowercase": True}, {"fraction": 0.5}, {"max_length": 9})
    ]
    (folder / "test.en").write_text((folder / "test.en").read_text().replace("Zebra", "Zebro"))
    assert len({first, parallel(folder).fingerprint(), *(data.fingerprint() for data in others)}) == 6


def test_gzipped_files_are_read_as_the_plain_ones(folder: Path) -> None:
    first = parallel(folder, val=None, test=None, val_fraction=0.2).fingerprint()
    for file in (folder / "train.de", folder / "train.en"):
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert parallel(folder, val=None, test=None, val_fraction=0.2).fingerprint() == first


def test_empty_lines_long_sentences_and_unknown_words_are_counted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, "train", ["", *GERMAN[:158], "Hund " * 40], [*ENGLISH[:158], " ", "dog"])
    write(folder, "val", [*GERMAN[160:179], "Zwei Katzen " * 20], ENGLISH[160:180])
    data = parallel(folder, max_length=20)
    said = capsys.readouterr().err
    assert f"{folder}/train.de: 2 pairs with an empty side are left out; the first is on line 1" in said
    assert (
        "1 training pairs longer than data.max_length=20 tokens are left out, 1 of validation and test truncated"
        in said
    )
    assert "40 of 466 source tokens of val and test are unknown" in said
    assert len(data.splits["train"]) == 157 and len(data.splits["val"]) == 20 and data.input_shape == (2, 20)


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        ({"train.en": "one\n"}, {}, r"train\.en has 1 lines, but \S+train\.de has 160"),
        ({"train.de": b"ok\n\xff\n"}, {}, r"train\.de, line 2: expected UTF-8"),
        ({"val.de": None}, {}, r"(?s)were not found; searched.*val\.de"),
        ({"train.de": "\n" * 160}, {}, r"train\.de has no pair of sentences"),
        ({"train.de.gz": b"no", "train.de": None}, {}, r"train\.de\.gz cannot be read"),
        ({}, {"max_length": 2}, r"data\.max_length=2: all 160 training pairs are longer"),
        ({}, {"per_class": 3}, r"data\.per_class: sentences have no classes"),
        ({}, {"device": "trainer"}, r"data\.device=trainer: batches of sentences"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_one_message(
    folder: Path, files: dict[str, str | bytes | None], settings: dict[str, Any], message: str
) -> None:
    for name, content in files.items():
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        parallel(folder, **settings)


@pytest.mark.parametrize("text", ["${a} ???", 'a "quoted" $word, isn\'t it?', "(über) 日本 – 3.5 %!"])
def test_words_and_marks_are_put_together_again_and_vocabularies_rebuilt_without_the_text(text: str) -> None:
    pairs = SentencePairs(fit_words([text]), fit_words(["other", text, text], min_count=2))
    rebuilt: Any = instantiate(OmegaConf.create(json.loads(json.dumps(pairs.recipe()))), _convert_="all")
    for one in (pairs, rebuilt):
        assert one.to_text(one.target_ids([f"{text}  \t{text}"])[0]) == f"{text} {text}"
        assert one.source.to_text(one.source_ids([text])[0][:-1] - SPECIAL) == text
        assert one.to_text(one.target_ids(["other"])[0]) == "<unk>" and one.target.unknown("other") == ["other"]


def test_generated_strings_are_copied_or_reversed_and_differ() -> None:
    for kind in ("copy", "reverse"):
        data = SequencePairs(kind=kind, count=300, letters=3, longest=6)  # type: ignore[arg-type]
        data.setup()
        texts = [data.sample_text(x) for x in data.arrays.x.index_select(0, torch.arange(300))]
        assert len(set(texts)) == 300 and {part: len(i) for part, i in data.splits.items()} == {
            "train": 240,
            "val": 30,
            "test": 30,
        }
        assert [data.reference("train", i) for i in range(300)] == [t if kind == "copy" else t[::-1] for t in texts]
    with pytest.raises(UserError, match=r"data\.count=90: there are 126 strings"):
        SequencePairs(count=90, letters=2, longest=6).setup()


# --- networks ------------------------------------------------------------------------------------------------------
def network(kind: str, outputs: int = 12, **settings: Any) -> EncoderDecoder:
    torch.manual_seed(0)
    if kind == "gru":
        return AttentionGRU([2, 9], outputs, 11, dim=16, hidden=12, **settings).eval()
    how = {"depth": 2, "heads": 2, "dim": 16, "hidden": 24, "norm_first": kind == "before", "tied": kind == "before"}
    return TranslationTransformer([2, 9], outputs, 11, **{**how, **settings}).eval()


KINDS = ("before", "after", "gru")


def sentences(count: int, vocabulary: int) -> Tensor:
    """Padded ids of lengths from 9 downwards."""
    ids = torch.randint(SPECIAL, vocabulary, (count, 9), generator=torch.Generator().manual_seed(1))
    for i, row in enumerate(ids):
        row[8 - i] = EOS
        row[9 - i :] = PAD
    return ids


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_later_tokens_change_nothing(kind: str) -> None:
    model, source, target = network(kind), sentences(4, 11), sentences(4, 12)
    pairs = torch.stack([source, decoder_input(target)], 1)
    logits = model(pairs)
    assert logits.shape == (4, 9, 12)
    for i in range(4):
        torch.testing.assert_close(model(pairs[i : i + 1, :, : 9 - i]), logits[i : i + 1, : 9 - i])
    changed = pairs.clone()
    changed[0, 1, 5] = 3 + (changed[0, 1, 5] - 2) % 8
    torch.testing.assert_close(model(changed)[0, :5], logits[0, :5])
    assert not torch.allclose(model(changed)[0, 5:], logits[0, 5:])
    changed = pairs.clone()
    changed[0, 0, 7] = 3 + (changed[0, 0, 7] - 2) % 8
    assert not torch.allclose(model(changed)[0, 0], logits[0, 0])  # each position sees the whole source


@pytest.mark.parametrize("kind", KINDS)
def test_one_token_at_a_time_is_the_whole_target_at_once(kind: str) -> None:
    model, source, target = network(kind), sentences(3, 11), decoder_input(sentences(3, 12))
    memory = model.encode(source)
    state: tuple[Tensor, ...] = ()
    found = []
    for i in range(9):
        logits, state = model.step(target[:, i], memory, state)
        found.append(logits)
    torch.testing.assert_close(torch.stack(found, 1), model.decode(target, memory))


def exhaustive(model: EncoderDecoder, source: Tensor, length: int, alpha: float, tokens: list[int]) -> list[int]:
    """The best of all targets of one source, by one pass over each."""
    memory, best, found = model.encode(source[None]), -float("inf"), []
    for size in range(1, length + 1):
        for words in itertools.product([t for t in tokens if t != EOS], repeat=size - 1):
            for last in [EOS] if size < length else tokens:
                target = [*words, last]
                logits = model.decode(torch.tensor([[BOS, *target[:-1]]]), memory)[0].double()
                logits[:, [PAD, BOS]] = -torch.inf
                score = float(logits.log_softmax(-1)[torch.arange(size), torch.tensor(target)].sum())
                if (score := score / float(length_penalty(torch.tensor(float(size)), alpha))) > best:
                    best, found = score, target
    return found


@pytest.mark.parametrize("kind", ["before", "gru"])
@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_a_wide_beam_finds_the_best_of_all_targets_and_a_narrow_one_is_greedy(kind: str, alpha: float) -> None:
    model, source = network(kind, outputs=5), sentences(2, 11)
    with torch.no_grad():
        model.target.weight.mul_(4)  # surer of itself
        best = [exhaustive(model, row[: int((row != PAD).sum())], 4, alpha, [EOS, 3, 4]) for row in source]
    found = beam_search(model, source, beam=100, alpha=alpha, max_length=4)
    assert [row[row != PAD].tolist() for row in found] == best
    greedy = beam_search(model, source, max_length=9)
    for row, one in zip(greedy, source, strict=True):
        logits = model(torch.stack([one, decoder_input(row[None])[0]])[None])[0]
        logits[:, [PAD, BOS]] = -torch.inf
        kept = row != PAD
        assert torch.equal(logits.argmax(-1)[kept], row[kept])
    narrow = beam_search(model, source, beam=2, alpha=alpha, max_length=9)
    assert narrow.shape == (2, 9) and not (narrow == BOS).any()


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [([9], {}, "needs pairs of sentences"), ([2, 9], {"dim": 10, "heads": 4}, "dim=10 must be a multiple")],
)
def test_a_network_that_does_not_fit_is_rejected(shape: list[int], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TranslationTransformer(shape, 12, 11, **settings)
