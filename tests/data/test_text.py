"""Texts: cut into words, kept as ids without loss, and mapped to what the training part shows."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from text_datasets import Handwritten

from lightning_modules.config.errors import UserError
from lightning_modules.data.preprocess import preprocess_spec
from lightning_modules.zoo.data.vocabulary import (
    Vocabulary,
    build_word_ids,
    decode,
    encode,
    fit_vocabulary_ids,
    kim2014,
    load_tokenizer,
    whitespace,
    words,
)

TEXTS = ["a b c", "b b ???", "", "c ${d} e f g", "a"]


def test_words_keep_their_apostrophes_and_marks_stand_alone() -> None:
    assert words("Don't STOP, it's the film 's best!") == [
        "don't", "stop", ",", "it's", "the", "film", "'s", "best", "!",
    ]  # fmt: skip
    assert words("'good' (4.5)...") == ["'", "good", "'", "(", "4", ".", "5", ")", ".", ".", "."]
    assert words("") == words(" \t\n") == []


def test_kims_cleaning_keeps_letters_digits_and_some_marks_and_parts_endings() -> None:
    assert kim2014("They've said: \"Don't\", it's he'd (we'll?)!") == [
        "they", "'ve", "said", "do", "n't", ",", "it", "'s", "he", "'d", "(", "we", "'ll", "?", ")", "!",
    ]  # fmt: skip
    assert kim2014("caf\xe9 -- U.S. `x` 3,000") == ["caf", "u", "s", "`x`", "3", ",", "000"]
    assert kim2014("... -") == []
    assert whitespace(" As it\tIS . ") == ["As", "it", "IS", "."]


def test_an_unknown_way_of_cutting_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"data.tokenizer=word: did you mean 'words'"):
        load_tokenizer("word")
    with pytest.raises(UserError, match=r"Handwritten.max_length=0: expected 1 or more"):
        Handwritten(TEXTS, [0, 1, 0, 1, 0], max_length=0)
    with pytest.raises(UserError, match=r"data.tokenizer=kym"):
        Handwritten(TEXTS, [0, 1, 0, 1, 0], tokenizer="kym")


def test_ids_follow_the_first_appearance_and_give_the_words_back() -> None:
    cut = [whitespace(text) for text in TEXTS]
    ids = build_word_ids(cut)
    assert list(ids.items())[:4] == [("a", 1), ("b", 2), ("c", 3), ("???", 4)]
    x = encode(cut, ids, 5)
    assert x.dtype == torch.int32 and x[1].tolist() == [2, 2, 4, 0, 0] and x[2].tolist() == [0] * 5
    assert [decode(row, list(ids)) for row in x] == TEXTS
    assert encode([["a", "new"]], ids, 3).tolist() == [[1, 9, 0]]
    assert decode(torch.tensor([1, 9, 0]), list(ids)) == "a <unk>"


def test_the_longest_text_gives_the_length_and_cut_texts_are_counted_and_said() -> None:
    data = Handwritten(TEXTS, [0, 1, 0, 1, 0], tokenizer="spaces")
    assert data.load().x.shape == (5, 5) and data.num_truncated_texts == 0
    data = Handwritten(TEXTS, [0, 1, 0, 1, 0], tokenizer="spaces", max_length=2)
    with pytest.warns(UserWarning, match=r"data.max_length=2 truncates 3 of 5 texts; the longest has 5 words"):
        assert data.load().x.shape == (5, 2)
    assert data.num_truncated_texts == 3
    assert Handwritten(["", ""], [0, 1]).load().x.tolist() == [[0], [0]]


def test_only_words_of_the_training_part_are_known_the_most_frequent_first() -> None:
    x = torch.tensor([[3, 1, 1], [2, 3, 0], [5, 0, 0], [1, 0, 0]], dtype=torch.int32)
    assert fit_vocabulary_ids(x[:2], 5) == [2, 4, 3, 1, 1]
    assert fit_vocabulary_ids(x[:2], 5, min_count=2) == [2, 1, 3, 1, 1]
    assert fit_vocabulary_ids(x[:2], 5, max_words=1) == [2, 1, 1, 1, 1]
    data = Handwritten([f"w{i} same" for i in range(20)], [i % 2 for i in range(20)], test_fraction=0.5)
    data.setup()
    known = data.preprocess(data.arrays.x)
    assert (known[data.splits["train"]] > 1).all()
    assert (known[data.splits["test"]][:, 0] == 1).all() and (known[:, 1] == 2).all()
    assert data.model_settings() == {"vocab_size": 13}


def test_the_lookup_maps_padding_to_zero_and_strange_ids_to_unknown() -> None:
    vocabulary = Vocabulary(["a", "b"], [2, 1], "spaces", 4)
    assert vocabulary(torch.tensor([[1, 2, 3, 99, 0]], dtype=torch.int32)).tolist() == [[2, 1, 1, 1, 0]]
    assert vocabulary.size == 3
    assert vocabulary.encode(["b a new", "", "a a a a a"]).tolist() == [[2, 1, 3, 0], [0] * 4, [1] * 4]


def test_a_vocabulary_is_built_again_from_plain_values_whatever_its_words_are() -> None:
    data = Handwritten(TEXTS, [0, 1, 0, 1, 0], tokenizer="spaces", min_count=2)
    data.setup()
    plain = OmegaConf.to_container(OmegaConf.create(preprocess_spec(data.preprocess)), resolve=True)
    again = instantiate(plain)
    assert isinstance(again, Vocabulary) and again.words == data.words and "${d}" in again.words
    assert torch.equal(again.encode(TEXTS), data.arrays.x)
    assert torch.equal(again(data.arrays.x), data.preprocess(data.arrays.x))
    assert again.state_dict().keys() == data.preprocess.state_dict().keys() == {"lookup"}


def test_the_fingerprint_covers_words_labels_and_vocabulary() -> None:
    def print_of(texts: list[str], labels: list[int], **settings: int) -> str:
        return Handwritten(texts, labels, **settings).fingerprint()

    first = print_of(["a b", "b a"], [0, 1])
    assert first == print_of(["a b", "b a"], [0, 1])
    others = [print_of(["a c", "c a"], [0, 1]), print_of(["a b", "b a"], [1, 0]), print_of(["a b", "b"], [0, 1])]
    rare = [print_of(["a b b", "b b c"], [0, 1]), print_of(["a b b", "b b c"], [0, 1], min_count=2)]
    assert len({first, *others, *rare}) == 6


def test_a_sample_is_shown_as_its_words() -> None:
    data = Handwritten(["the end .", "no"], [0, 1])
    data.setup()
    assert data.domain == "text"
    assert [data.sample_text(row) for row in data.arrays.x] == ["the end .", "no"]
    assert data.sample_text(torch.tensor([data.unknown_id, 1, 0])) == "<unk> the"


def test_a_folder_that_is_no_tokenizer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UserError, match=r"needs transformers: pip install -e '.\[text\]'"):
        load_tokenizer(str(tmp_path))
