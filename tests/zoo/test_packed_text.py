"""A text as windows of tokens: split in its order, a vocabulary of the training part, and what a damaged file says."""

import gzip
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data.packed_text import PackedText
from lightning_modules.zoo.data.token_vocabulary import CharacterVocabulary, fit_byte_pairs, fit_characters

TEXT = "".join(f"line {i} of the text\n" for i in range(100))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "story.txt"
    path.write_text(TEXT)
    return path


def packed(file: Path, **settings: Any) -> PackedText:
    data = PackedText(path=str(file), **{"block": 8, "batch_size": 4, **settings})
    data.setup()
    return data


def test_targets_are_the_next_tokens_and_no_window_crosses_the_border_of_a_part(file: Path) -> None:
    data = packed(file, test_fraction=0.2)
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch["x"][:, 1:], batch["y"][:, :-1])
    borders = [0, *(int(len(TEXT) * share) for share in (0.7, 0.8, 1.0))]
    for i, part in enumerate(("train", "val", "test")):
        text = TEXT[borders[i] : borders[i + 1]]
        index = data.splits[part]
        x, y = (pool.index_select(0, index) for pool in (data.arrays.x, data.arrays.y))
        whole = len(text) - 1 - (len(text) - 1) % 8  # the incomplete last window is left out
        assert data.vocabulary.to_text(x.flatten()) == text[:whole]
        assert data.vocabulary.to_text(y.flatten()) == text[1 : whole + 1]


def test_the_split_is_that_of_nanogpt_and_windows_may_start_at_any_token(file: Path) -> None:
    data, trained = packed(file, stride=1), int(len(TEXT) * 0.9)
    assert data.num_tokens == {"train": (trained - 1) // 8 * 8, "val": (len(TEXT) - trained - 1) // 8 * 8, "test": 0}
    assert data.splits["train"].tolist() == list(range(data.num_tokens["train"] - 7))
    assert data.vocabulary.to_text(data.arrays.x[5]) == TEXT[5:13]
    first = data.arrays.x.index_select(0, data.splits["val"][:1])[0]
    assert data.vocabulary.to_text(first) == TEXT[trained : trained + 8]
    assert data.arrays.x.untyped_storage().nbytes() <= 4 * len(TEXT)  # type: ignore[union-attr] # views of the tokens


@pytest.mark.parametrize(("stride", "starts"), [(None, 8), (6, 6), (12, 12)])
def test_training_windows_start_every_stride_tokens(file: Path, stride: int | None, starts: int) -> None:
    data = packed(file, stride=stride)
    windows = data.arrays.x.index_select(0, data.splits["train"])
    assert [data.vocabulary.to_text(x) for x in windows[:9]] == [TEXT[i : i + 8] for i in range(0, 9 * starts, starts)]
    if stride is None:
        assert len(data.arrays.x) == sum(map(len, data.splits.values()))  # none is unused


def test_the_order_is_a_function_of_seed_and_epoch_and_ranks_share_the_windows(file: Path) -> None:
    def order(epoch: int, rank: int = 0, world_size: int = 1) -> list[int]:
        data = packed(file, seed=3)
        data.trainer = Namespace(
            distributed_sampler_kwargs={"rank": rank, "num_replicas": world_size},
            strategy=Namespace(root_device=torch.device("cpu")),
        )
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        return [int(i) for batch in loader for i in batch["index"]]

    assert order(1) == order(1) != order(2)
    assert sorted(order(1)) == packed(file).splits["train"].tolist()
    assert set(order(1, 0, 2)) | set(order(1, 1, 2)) == set(order(1)) and len(order(1, 0, 2)) == -(-len(order(1)) // 2)


def test_the_device_of_the_trainer_holds_the_tokens_once(file: Path) -> None:
    plain, moved = packed(file, stride=1), packed(file, stride=1, device="trainer")
    for a, b in zip(plain.train_dataloader(), moved.train_dataloader(), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
    ((x, _),) = moved._on_device.values()
    assert x.untyped_storage().nbytes() <= 4 * len(TEXT)


def test_the_fingerprint_covers_text_split_and_vocabulary(file: Path) -> None:
    first = packed(file).fingerprint()
    assert packed(file).fingerprint() == first
    others = [packed(file, block=9), packed(file, val_fraction=0.2), packed(file, tokenizer="bpe", vocab_size=260)]
    file.write_text(TEXT.replace("line 7 ", "line 8 "))
    found = {first, packed(file).fingerprint(), *(data.fingerprint() for data in others)}
    assert len(found) == 5


def test_a_fraction_is_the_start_of_the_training_text_with_a_vocabulary_of_its_own(file: Path) -> None:
    data = packed(file, fraction=0.1)
    assert data.num_tokens["train"] == (int(int(len(TEXT) * 0.9) * 0.1) - 1) // 8 * 8
    assert data.vocabulary.unknown("line 9") == []


@pytest.mark.parametrize("text", ["${a} ???", '"quoted"', "a\nb\tc\u2028 \U0001f600 é$"])
def test_a_vocabulary_is_rebuilt_from_its_recipe_without_the_text(text: str) -> None:
    for vocabulary in (fit_characters(text), fit_byte_pairs(text * 3, 260)):
        recipe: Any = OmegaConf.create(json.loads(json.dumps(vocabulary.recipe())))
        rebuilt = instantiate(recipe)
        assert rebuilt.tokens == vocabulary.tokens
        assert rebuilt.to_text(rebuilt.to_ids(text)) == text == vocabulary.to_text(vocabulary.to_ids(text))
        assert int(rebuilt.token_characters[rebuilt.to_ids(text).long()].sum()) == len(text)


def test_byte_pairs_are_learned_from_the_training_part_only(tmp_path: Path) -> None:
    path = tmp_path / "two.txt"
    path.write_text("abab " * 900 + "xyxy " * 100)
    data = packed(path, tokenizer="bpe", vocab_size=262)
    assert data.num_targets == data.vocabulary.size <= 262
    assert any("ab" in token for token in data.vocabulary.tokens) and not any("xy" in t for t in data.vocabulary.tokens)
    assert data.vocabulary.to_text(data.vocabulary.to_ids("über 日本")) == "über 日本"


def test_characters_that_only_held_out_text_has_are_counted_as_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "late.txt"
    path.write_text("abc" * 300 + "abz" * 33)
    data = packed(path)
    assert f"{path}: train lacks 1 characters of val and test, now unknown: 'z'" in capsys.readouterr().err
    assert data.vocabulary.tokens == ["a", "b", "c", "<unk>"]
    assert data.vocabulary.to_text(data.vocabulary.to_ids("az")) == "a<unk>"


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (b"", {}, "is empty: expected a text"),
        (b" \n\n", {}, "is empty: expected a text"),
        (b"short", {}, r"the train part has 4 tokens, too few for a window of data\.block=8"),
        (b"x" * 30, {}, r"the val part has 3 tokens, too few .* other data\.val_fraction"),
        (
            "naïve".encode("latin-1") * 9,
            {},
            r"is not utf-8 \(byte 2: invalid continuation byte\); set data\.encoding",
        ),
        (TEXT.encode(), {"folds": 5, "fold": 0}, r"data\.folds and data\.per_class: a text is split in its order"),
        (TEXT.encode(), {"tokenizer": "bpe", "vocab_size": 100}, r"vocab_size=100: expected 257 or more"),
        (TEXT.encode(), {"encoding": "utf8000"}, "is not an encoding"),
    ],
)
def test_what_cannot_be_trained_on_is_one_message_with_the_file(
    file: Path, content: bytes, settings: dict[str, Any], message: str
) -> None:
    file.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        packed(file, **settings)
    assert str(file) in str(caught.value) or settings


def test_a_missing_a_gzipped_and_a_damaged_file(file: Path) -> None:
    zipped = file.with_name("story.txt.gz")
    zipped.write_bytes(gzip.compress(TEXT.encode()))
    expected = packed(file).fingerprint()
    file.unlink()
    assert packed(file).fingerprint() == expected
    zipped.write_bytes(zipped.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"story\.txt\.gz cannot be read"):
        packed(file)
    zipped.unlink()
    with pytest.raises(UserError, match=r"(?s)were not found; searched.*story\.txt\n"):
        packed(file)


def test_other_encodings_are_read_where_they_are_named(file: Path) -> None:
    file.write_bytes(("naïve " * 99).encode("cp1252"))
    assert "ï" in packed(file, encoding="cp1252").vocabulary.tokens
    assert isinstance(packed(file, encoding="cp1252").vocabulary, CharacterVocabulary)
