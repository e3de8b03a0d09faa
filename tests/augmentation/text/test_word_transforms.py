"""What each transform of words does, against the same done text by text."""

import pytest
import torch
from text_datasets import Handwritten
from torch import Tensor

from lightning_modules.augmentation.text.text_transform import OneOf, compact, num_words, sample_positions
from lightning_modules.augmentation.text.word_noise import (
    DeleteWords,
    MaskSpan,
    ShuffleSentences,
    SwapWords,
    WordDropout,
)
from lightning_modules.config.errors import UserError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(lengths: list[int], width: int = 12) -> Tensor:
    """Rows of the words 1, 2, 3 … as long as is said."""
    column = torch.arange(1, width + 1, dtype=torch.int32)
    return torch.where(column <= torch.tensor(lengths)[:, None], column, 0).int()


def test_a_share_of_the_words_is_at_least_one_and_not_more_than_there_are() -> None:
    assert num_words(torch.tensor([0, 1, 4, 10, 26]), 0.1).tolist() == [0, 1, 1, 1, 3]
    assert num_words(torch.tensor([0, 1, 4]), 1.0).tolist() == [0, 1, 4]
    allowed = torch.tensor([[True, False, True, True]]).repeat(3000, 1)
    drawn = sample_positions(allowed, torch.full((3000,), 2), generator())
    assert not drawn[:, 1].any() and (drawn.sum(1) == 2).all()
    assert drawn.sum(0)[[0, 2, 3]].sub(2000).abs().max() < 100, "each as often"
    assert (sample_positions(allowed, torch.full((3000,), 9), generator()) == allowed).all()


def test_rows_close_up_as_lists_do() -> None:
    x = numbered([12, 7, 0, 3])
    kept = torch.rand(x.shape, generator=generator()) < 0.5
    out = compact(x, kept & (x != 0))
    for row, keep, new in zip(x.tolist(), kept.tolist(), out.tolist(), strict=True):
        left = [word for word, stays in zip(row, keep, strict=True) if stays and word]
        assert new == left + [0] * (12 - len(left))


def test_swapped_words_are_pairs_and_all_words_stay() -> None:
    x = numbered([12, 7, 2, 1, 0] * 500)
    out = SwapWords(0.25)(({"x": x}), generator())["x"]
    assert torch.equal(out.sort(1).values, x.sort(1).values)
    moved = (out != x).sum(1).view(500, 5)
    assert (moved == torch.tensor([6, 4, 2, 0, 0])).all(), "a quarter of 12, 7 and 2 words, in pairs"
    for row in out[:50]:
        for i, word in enumerate(row.tolist()):
            assert word == 0 or int(row[word - 1]) == i + 1, "who stands in my place, in whose place I stand"
    first = out.view(500, 5, 12)[:, 0]
    assert (first != x[0]).float().mean(0).sub(0.5).abs().max() < 0.1, "each place as often"


def test_sentences_change_their_order_and_keep_their_words_and_marks(corpus: Handwritten) -> None:
    transform = ShuffleSentences()
    transform.prepare(corpus)
    ids = {word: i for i, word in enumerate(corpus.words, start=1)}
    rows = ["good film . bad plot ! the", "good film", ". . good .", ""]
    x = corpus.preprocess.encode(rows).repeat(300, 1)  # type: ignore[operator]
    out = transform({"x": x}, generator())["x"].view(300, 4, -1)
    seen = {corpus.sample_text(row) for row in out[:, 0]}
    parts = ["good film .", "bad plot !", "the"]
    orders = {" ".join(parts[i] for i in p) for p in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))}
    assert seen == orders and ids["."] in x[0]
    assert {corpus.sample_text(row) for row in out[:, 1]} == {"good film"} and not out[:, 3].any()
    assert {corpus.sample_text(row) for row in out[:, 2]} == {". . good .", ". good . .", "good . . ."}


def test_without_marks_at_the_ends_of_sentences_there_is_nothing_to_shuffle() -> None:
    data = Handwritten(["no marks", "at all"], [0, 1])
    data.setup()
    with pytest.raises(UserError, match=r"none of these is a word of handwritten; try data.tokenizer=words"):
        ShuffleSentences().prepare(data)


def test_each_word_is_deleted_with_its_probability_and_one_always_stays() -> None:
    x = numbered([12] * 4000)
    out = DeleteWords(0.3)({"x": x}, generator())["x"]
    share = 1 - (out != 0).sum() / x.numel()
    assert abs(float(share) - 0.3) < 0.01
    present = torch.stack([(out == word).any(1) for word in range(1, 13)], 1).float()
    assert present.mean(0).sub(0.7).abs().max() < 0.03
    assert torch.corrcoef(present.T).fill_diagonal_(0).abs().max() < 0.06, "independent within a text"
    ordered = torch.where(out == 0, 99, out)
    assert (ordered[:, 1:] >= ordered[:, :-1]).all()
    gone = DeleteWords(1.0)({"x": x}, generator())["x"]
    assert ((gone != 0).sum(1) == 1).all()
    assert gone[:, 0].long().bincount(minlength=13)[1:].sub(4000 / 12).abs().max() < 80, "any word may be the last"


def test_dropped_words_become_unknown_in_their_places(corpus: Handwritten) -> None:
    transform = WordDropout(0.3)
    transform.prepare(corpus)
    x = numbered([12, 5] * 2000)
    out = transform({"x": x}, generator())["x"]
    hidden = out == corpus.unknown_id
    assert torch.equal(out.masked_fill(hidden, 0), x.masked_fill(hidden, 0)) and not hidden[x == 0].any()
    assert abs(float(hidden.sum() / (x != 0).sum()) - 0.3) < 0.01
    assert (corpus.preprocess(out)[hidden] == 1).all()
    every = WordDropout(1.0)
    every.prepare(corpus)
    left = every({"x": x}, generator())["x"]
    assert (((left != corpus.unknown_id) & (left != 0)).sum(1) == 1).all()


def test_a_span_is_masked_from_any_place_on_and_no_more_than_its_share(corpus: Handwritten) -> None:
    transform = MaskSpan(0.5)
    transform.prepare(corpus)
    x = numbered([12] * 6000 + [1, 0])
    out = transform({"x": x}, generator())["x"]
    masked = (out == corpus.unknown_id)[:6000]
    sizes = masked.sum(1)
    assert sizes.bincount(minlength=13)[1:7].sub(1000).abs().max() < 120 and int(sizes.max()) == 6
    edges = (masked[:, 1:] != masked[:, :-1]).sum(1) + masked[:, 0] + masked[:, -1]
    assert (edges == 2).all(), "consecutive"
    starts = masked[sizes == 1].int().argmax(1).bincount(minlength=12)
    assert starts.min() > 40, "anywhere"
    assert torch.equal(out[6000:], x[6000:]), "the only word stays"


def test_one_of_draws_evenly_and_applies_no_two() -> None:
    given = {"x": numbered([12] * 4000)}
    out = OneOf({"swap": SwapWords(0.3), "delete": DeleteWords(1.0)})(given, generator())["x"]
    deleted, swapped = (out != 0).sum(1) == 1, (out != 0).sum(1) == 12
    assert (deleted | swapped).all() and abs(float(deleted.float().mean()) - 0.5) < 0.03
    assert torch.equal(out[swapped].sort(1).values, given["x"][swapped])
