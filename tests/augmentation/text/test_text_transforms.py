"""What holds for every transform of texts: randomness, padding, labels, and rows that are nearly empty."""

from collections.abc import Callable

import pytest
import torch
from text_datasets import Handwritten
from torch import Tensor, nn

from lightning_modules.augmentation.text.context_mixup import AddContext
from lightning_modules.augmentation.text.synonym_replacement import InsertWords, ReplaceWords
from lightning_modules.augmentation.text.text_transform import OneOf
from lightning_modules.augmentation.text.word_noise import (
    DeleteWords,
    MaskSpan,
    ShuffleSentences,
    SwapWords,
    WordDropout,
)
from lightning_modules.config.errors import UserError

TRANSFORMS: dict[str, Callable[[float], nn.Module]] = {
    "swap": lambda p: SwapWords(0.3, p),
    "sentences": lambda p: ShuffleSentences(probability=p),
    "delete": lambda p: DeleteWords(0.4, p),
    "dropout": lambda p: WordDropout(0.4, p),
    "mask": lambda p: MaskSpan(0.5, p),
    "replace": lambda p: ReplaceWords(0.4, probability=p),
    "insert": lambda p: InsertWords(0.4, probability=p),
    "context": lambda p: AddContext(probability=p),
    "one_of": lambda p: OneOf({"swap": SwapWords(0.3), "delete": DeleteWords(0.4), "off": None}, p),
}
WORDS = 12  # of the full texts of `batch_of`; 14 is the longest
every = pytest.mark.parametrize("name", TRANSFORMS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(corpus: Handwritten, count: int = 64, dtype: torch.dtype = torch.int32) -> dict[str, Tensor]:
    """`count` texts of twelve words with room for two more; index -1 is no sample of the corpus."""
    x = corpus.arrays.x[:1, :WORDS].repeat(count, 1)
    x = torch.cat([x, torch.zeros(count, 4, dtype=x.dtype)], dim=1).to(dtype)
    return {"x": x, "y": torch.zeros(count, dtype=torch.int64), "index": torch.zeros(count, dtype=torch.int64)}


def made(name: str, corpus: Handwritten, probability: float = 1.0) -> nn.Module:
    transform = TRANSFORMS[name](probability)
    transform.prepare(corpus)  # type: ignore[operator]
    return transform


@every
def test_the_same_generator_gives_the_same_batch_and_another_another(name: str, corpus: Handwritten) -> None:
    transform, given = made(name, corpus), batch_of(corpus)
    first = transform(given, generator(1))["x"]
    assert torch.equal(first, transform(given, generator(1))["x"])
    assert not torch.equal(first, transform(given, generator(2))["x"])


@every
def test_the_global_generator_and_the_given_batch_are_left_alone(name: str, corpus: Handwritten) -> None:
    transform, given = made(name, corpus), batch_of(corpus)
    copy = {key: value.clone() for key, value in given.items()}
    before = torch.get_rng_state()
    out = transform(given, generator())
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(given[key], copy[key]) for key in given)
    assert torch.equal(out["y"], copy["y"]) and torch.equal(out["index"], copy["index"])
    assert not out["x"].requires_grad and out["x"].dtype == given["x"].dtype


@every
def test_each_text_is_changed_with_the_probability_independently_of_the_others(name: str, corpus: Handwritten) -> None:
    given = batch_of(corpus, 4000)
    sure = (made(name, corpus)(given, generator())["x"] != given["x"]).any(1).float()
    half = (made(name, corpus, 0.5)(given, generator(1))["x"] != given["x"]).any(1).float()
    assert abs(float(half.mean()) - 0.5 * float(sure.mean())) < 0.03
    assert abs(float(torch.corrcoef(torch.stack([half[:-1], half[1:]]))[0, 1])) < 0.06
    assert torch.equal(made(name, corpus, 0.0)(given, generator())["x"], given["x"])


@every
def test_texts_of_a_batch_are_changed_in_ways_of_their_own(name: str, corpus: Handwritten) -> None:
    out = made(name, corpus)(batch_of(corpus, 200), generator())["x"]
    assert len(out.unique(dim=0)) >= (2 if name == "sentences" else 5)


@every
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_padding_stays_at_the_end_and_a_word_stays(name: str, dtype: torch.dtype, corpus: Handwritten) -> None:
    rows = [[1, 2, 3, 4, 5, 6, 7], [3, 0, 0, 0, 0, 0, 0], [0] * 7, [2, 5, 0, 0, 0, 0, 0], [6, 6, 6, 6, 6, 6, 0]]
    x = torch.tensor(rows, dtype=dtype).repeat(200, 1)
    given = {"x": x, "y": torch.arange(len(x)) % 3, "index": torch.arange(len(x)) % 60}
    out = made(name, corpus)(given, generator())["x"]
    assert out.shape == x.shape and out.dtype == dtype
    words = out != 0
    assert torch.equal(words, words.cummin(1).values), "no padding between words"
    assert torch.equal(words[:, 0], (x != 0)[:, 0] | (words[:, 0] if name == "context" else False))
    assert int(out.max()) <= corpus.unknown_id and int(out.min()) >= 0


@every
def test_one_text_one_word_and_no_word_are_batches_too(name: str, corpus: Handwritten) -> None:
    transform = made(name, corpus)
    for row in ([1, 2, 3, 0], [1], [0], [0, 0, 0]):
        given = {"x": torch.tensor([row]), "y": torch.tensor([0]), "index": torch.tensor([0])}
        out = transform(given, generator())["x"]
        assert out.shape == (1, len(row))
        if row == [0]:
            assert out.tolist() == [[0]] or name == "context"


@every
def test_samples_that_are_no_texts_are_refused(name: str, corpus: Handwritten) -> None:
    for x in (torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.rand(4, 9)):
        with pytest.raises(UserError, match=r"needs texts \(rows of word ids\), but a sample has shape"):
            made(name, corpus)({"x": x, "y": torch.zeros(4, dtype=torch.int64)}, generator())


@every
def test_a_probability_beyond_one_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"probability=1.5: expected a value in \[0, 1\]"):
        TRANSFORMS[name](1.5)


@pytest.mark.gpu
@every
def test_a_gpu_gives_the_batch_that_a_cpu_gives(name: str, corpus: Handwritten) -> None:
    transform, given = made(name, corpus, 0.7), batch_of(corpus)
    there = transform({key: value.cuda() for key, value in given.items()}, generator())
    assert torch.equal(transform(given, generator())["x"], there["x"].cpu())


def test_the_share_is_checked_and_so_is_what_one_of_is_made_of() -> None:
    for kind in (SwapWords, DeleteWords, WordDropout, MaskSpan, ReplaceWords, InsertWords):
        with pytest.raises(UserError, match=rf"{kind.__name__}.share=-0.1: expected a value in \[0, 1\]"):
            kind(-0.1)  # type: ignore[abstract]
    with pytest.raises(UserError, match=r"OneOf.transforms=\['a'\]: expected word transforms"):
        OneOf({"a": AddContext()})
    with pytest.raises(UserError, match=r"OneOf.transforms=\[\]"):
        OneOf({})
    with pytest.raises(UserError, match=r"WordDropout: call prepare"):
        WordDropout()({"x": torch.ones(2, 3, dtype=torch.int32)}, generator())
