"""Added context keeps the class, and mixing makes soft labels."""

import pytest
import torch
from text_datasets import Handwritten

from lightning_modules.augmentation.text.context_mixup import AddContext, TextMixup
from lightning_modules.config.errors import UserError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def letters(**settings: object) -> Handwritten:
    """Texts of one class all have words of its letter; the last two are not trained on."""
    texts = ["a1", "a2 a2", "a3 a3 a3", "b1", "b2 b2", "c1 c1 c1 c1 c1 c1"]
    data = Handwritten(texts, [0, 0, 0, 1, 1, 2], tokenizer="spaces", **settings)
    data.setup()
    return data


def test_another_text_of_the_class_follows_as_far_as_there_is_room() -> None:
    data = letters()
    transform = AddContext(probability=1.0)
    transform.prepare(data)
    index = torch.arange(6).repeat(500)
    batch = {"x": data.arrays.x[index], "y": data.arrays.y[index], "index": index}
    out = transform(batch, generator())["x"].view(500, 6, -1)
    seen = [{data.sample_text(row) for row in column} for column in out.transpose(0, 1)]
    assert seen == [
        {"a1 a2 a2", "a1 a3 a3 a3"},
        {"a2 a2 a1", "a2 a2 a3 a3 a3"},
        {"a3 a3 a3 a1", "a3 a3 a3 a2 a2"},
        {"b1 b2 b2"},
        {"b2 b2 b1"},
        {"c1 c1 c1 c1 c1 c1"},
    ]
    first = sum(data.sample_text(row) == "a1 a2 a2" for row in out[:, 0])
    assert abs(first - 250) < 50, "evenly among the others"


def test_no_more_words_are_added_than_said_and_none_of_texts_that_are_not_trained_on() -> None:
    data = letters(test_fraction=1 / 3)
    transform = AddContext(max_words=1, probability=1.0)
    transform.prepare(data)
    x = torch.zeros(900, 6, dtype=torch.int32)
    out = transform({"x": x, "y": torch.arange(900) % 3}, generator())["x"]
    assert ((out != 0).sum(1) == 1).all(), "an empty text becomes another's word"
    trained = data.arrays.x[data.splits["train"]][:, 0]
    assert set(out[:, 0].tolist()) == set(trained.tolist())
    for label in range(3):
        assert {data.sample_text(row)[0] for row in out[label::3]} == {"abc"[label]}


def test_context_needs_classes_that_are_not_mixed_yet() -> None:
    values = Handwritten(["a", "b"], [0.5, 1.5])
    values.setup()
    with pytest.raises(UserError, match="handwritten has no classes"):
        AddContext().prepare(values)
    transform = AddContext()
    transform.prepare(letters())
    with pytest.raises(UserError, match="put it before the transforms that mix labels"):
        transform({"x": torch.ones(2, 3, dtype=torch.int32), "y": torch.rand(2, 3)}, generator())
    with pytest.raises(UserError, match=r"max_words=0: expected 1 or more"):
        AddContext(max_words=0)


def test_mixup_leaves_the_words_and_says_who_is_mixed_with_whom() -> None:
    data = letters()
    transform = TextMixup(alpha=0.5)
    transform.prepare(data)
    batch = {"x": data.arrays.x, "y": data.arrays.y}
    out = transform(batch, generator())
    assert out["x"] is batch["x"]
    hard = torch.nn.functional.one_hot(data.arrays.y, 3).float()
    weight = out["mix_weight"][:, None]
    assert torch.allclose(out["y"], weight * hard + (1 - weight) * hard[out["mix_partner"]])
    assert sorted(out["mix_partner"].tolist()) == list(range(6))
    assert batch["y"].dtype == torch.int64 and "mix_weight" not in batch
    values = Handwritten(["a", "b"], [0.0, 1.0])
    values.setup()
    transform.prepare(values)
    mixed = transform({"x": values.arrays.x, "y": values.arrays.y}, generator(3))
    assert mixed["y"].shape == (2,) and float(mixed["y"].min()) >= 0
