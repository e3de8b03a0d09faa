"""Where synonyms come from, and that they are put where they belong."""

from pathlib import Path

import pytest
import torch
from text_datasets import Handwritten

from lightning_modules.augmentation.text.synonym_replacement import (
    InsertWords,
    ReplaceWords,
    distributional_neighbors,
    read_table,
    read_wordnet,
    synonym_ids,
)
from lightning_modules.config.errors import UserError

LICENCE = "  1 This software and database is being provided to you\n"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def write_wordnet(folder: Path) -> None:
    """A few synsets in WordNet's format (wndb(5WN))."""
    (folder / "data.noun").write_text(
        LICENCE
        + "06613686 10 n 05 movie 0 film 0 picture 6 moving_picture 0 Movie 1 001 @ 06613686 n 0000 | a form of entertainment  \n"
        + "04011242 06 n 01 alone 0 000 | nobody beside it  \n"
    )
    (folder / "data.verb").write_text(LICENCE + "01641914 36 v 02 film 0 shoot 4 000 01 + 08 00 | make a film  \n")
    (folder / "data.adj").write_text(LICENCE + "01123148 00 a 02 good 0 well(p) 0 000 | pleasing  \n")
    (folder / "data.adv").write_text(LICENCE)


def test_wordnets_synsets_give_single_words_in_lower_case(tmp_path: Path) -> None:
    write_wordnet(tmp_path)
    assert read_wordnet(tmp_path) == {
        "movie": ["film", "picture"],
        "film": ["movie", "picture", "shoot"],
        "picture": ["movie", "film"],
        "shoot": ["film"],
        "good": ["well"],
        "well": ["good"],
    }


def test_a_folder_that_is_not_wordnets_and_a_damaged_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"apt-get install wordnet-base"):
        read_wordnet(tmp_path)
    write_wordnet(tmp_path)
    (tmp_path / "data.adv").write_text(LICENCE + "no synset\n")
    with pytest.raises(UserError, match=r"data.adv, line 2: not a synset of WordNet"):
        read_wordnet(tmp_path)


def test_a_table_holds_a_word_and_its_synonyms_in_each_line(tmp_path: Path) -> None:
    (tmp_path / "own.tsv").write_text("film\tmovie\t picture \n\nbad\n")
    assert read_table(tmp_path / "own.tsv")["film"] == ["movie", "picture"]
    (tmp_path / "none.tsv").write_text("film, movie\n")
    with pytest.raises(UserError, match="expected a word and its synonyms in each line"):
        read_table(tmp_path / "none.tsv")
    with pytest.raises(UserError, match="file does not exist"):
        read_table(tmp_path / "no.tsv")


def test_only_words_that_are_allowed_become_synonyms() -> None:
    allowed = torch.tensor([False, True, True, False, False])
    table = synonym_ids({"a": ["b", "c", "elsewhere"], "c": ["a"]}, ["a", "b", "c"], allowed)
    assert table.tolist() == [[0], [2], [0], [1], [0]]


def test_words_that_stand_in_the_same_places_are_neighbours() -> None:
    rows = []
    for i in range(40):  # 1 and 2 stand between 5 and 6, 3 and 4 between 7 and 8
        rows += [[5, 1 + i % 2, 6], [7, 3 + i % 2, 8]]
    x = torch.tensor(rows, dtype=torch.int32)
    table = distributional_neighbors(x, 9, most=2)
    assert table.shape == (11, 2)
    assert [int(table[i, 0]) for i in (1, 2, 3, 4)] == [2, 1, 4, 3]
    assert not table[0].any() and not table[9:].any(), "padding and words that are not there have none"
    assert torch.equal(table, distributional_neighbors(x, 9, most=2))
    assert (
        not distributional_neighbors(x[:1], 9).any()
        and not distributional_neighbors(torch.zeros(3, 1, dtype=torch.int32), 9).any()
    )


@pytest.fixture
def own(tmp_path: Path, corpus: Handwritten) -> str:
    """Synonyms by hand; `unheard` is not in the corpus, and `the` is a function word."""
    (tmp_path / "own.tsv").write_text("good\tgreat\tfine\tunheard\nfilm\tstory\nbad\tawful\nthe\tgood\n.\tgood\n")
    return str(tmp_path / "own.tsv")


def test_words_are_replaced_by_their_synonyms_and_by_nothing_else(own: str, corpus: Handwritten) -> None:
    transform = ReplaceWords(0.5, own)
    transform.prepare(corpus)
    x = corpus.preprocess.encode(["the good film . is bad", "the plot", ""]).repeat(2000, 1)  # type: ignore[operator]
    out = transform({"x": x}, generator())["x"].view(2000, 3, -1)
    words = [[corpus.sample_text(word) for word in column.unique()] for column in out[:, 0, :6].T]
    assert [sorted(column) for column in words] == [
        ["the"], ["fine", "great"], ["story"], ["."], ["is"], ["awful"],
    ]  # fmt: skip
    great = (out[:, 0, 1] == corpus.words.index("great") + 1).float().mean()
    assert abs(float(great) - 0.5) < 0.05, "evenly among synonyms"
    assert torch.equal(out[:, 1:], x.view(2000, 3, -1)[:, 1:]), "no synonyms, no change"
    third = ReplaceWords(1 / 6, own)
    third.prepare(corpus)
    changed = third({"x": x}, generator())["x"].view(2000, 3, -1)[:, 0] != x[0]
    assert (changed.sum(1) == 1).all() and changed.sum(0)[[1, 2, 5]].sub(2000 / 3).abs().max() < 80


def test_synonyms_are_inserted_between_any_two_words_as_far_as_there_is_room(own: str, corpus: Handwritten) -> None:
    transform = InsertWords(0.5, own)
    transform.prepare(corpus)
    texts = ["the film is bad", "bad film " * 7, "the plot", "bad " * (corpus.input_shape[0] - 1), ""]
    x = corpus.preprocess.encode(texts).repeat(1000, 1)  # type: ignore[operator]
    out = transform({"x": x}, generator())["x"].view(1000, 5, -1)
    lengths = (out != 0).sum(2)
    width = corpus.input_shape[0]
    assert (lengths[:, 0] == 6).all(), "half of four words, and two words have synonyms"
    assert (lengths[:, 1] == min(width, 14)).all() and torch.equal(out[:, 2], x.view(1000, 5, -1)[:, 2])
    assert (lengths[:, 3] == width).all() and not lengths[:, 4].any()
    new = torch.tensor([corpus.words.index(word) + 1 for word in ("story", "awful")])
    fresh = torch.isin(out[:, 0], new)
    assert (fresh.sum(1) == 2).all() and (fresh.sum(0)[:6] > 200).all(), "at every place"
    for row, keep in zip(out[:, 0], ~fresh, strict=True):
        assert corpus.sample_text(row[keep]) == "the film is bad", "the words stay in their order"


def test_neighbours_come_from_the_training_part_alone(corpus: Handwritten) -> None:
    transform = ReplaceWords(0.3)
    transform.prepare(corpus)
    train = set(corpus.arrays.x[corpus.splits["train"]].flatten().tolist())
    assert set(transform.table.flatten().tolist()) <= train | {0}
    named = {corpus.words[i - 1] for i in transform.table.flatten().unique().tolist() if i}
    assert named & {"good", "great", "fine", "film", "story"}
    assert not named & {"the", "of", "a", "is", "here", ".", "!"}
    for word in ("the", "of", ".", "!"):
        assert not transform.table[corpus.words.index(word) + 1].any(), "function words and marks stay"


def test_synonyms_that_no_text_has_are_told(tmp_path: Path, corpus: Handwritten) -> None:
    (tmp_path / "own.tsv").write_text("zebra\thorse\n")
    with pytest.raises(UserError, match="no training word of handwritten has a synonym"):
        ReplaceWords(0.1, str(tmp_path / "own.tsv")).prepare(corpus)
    with pytest.raises(UserError, match=r"most=0: expected 1 or more"):
        InsertWords(most=0)
