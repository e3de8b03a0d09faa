import pytest
import torch
from torch import Tensor

from lightning_modules.config.errors import UserError
from lightning_modules.data.split import SplitPlan, split
from lightning_modules.data.tabular import Tabular
from lightning_modules.zoo.data.image_datasets import Digits

Y = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 2]).repeat(10)


def covers(parts: dict[str, Tensor], count: int = 100) -> bool:
    return torch.equal(torch.cat(list(parts.values())).sort().values, torch.arange(count))


def test_the_parts_are_disjoint_and_cover_the_set() -> None:
    parts = split(Y, SplitPlan(), None)
    assert {name: len(part) for name, part in parts.items()} == {"train": 70, "val": 10, "test": 20}
    assert covers(parts)


def test_the_parts_keep_the_class_balance() -> None:
    parts = split(Y, SplitPlan(), None)
    assert Y[parts["test"]].bincount().tolist() == [10, 6, 4]
    assert Y[parts["val"]].bincount().tolist() == [5, 3, 2]


def test_the_split_is_a_function_of_its_seed() -> None:
    first, again, other = (split(Y, SplitPlan(split_seed=seed), None) for seed in (1, 1, 2))
    assert all(torch.equal(first[part], again[part]) for part in first)
    assert not torch.equal(first["test"], other["test"])
    assert not torch.equal(first["val"], other["val"])


def test_the_split_of_a_recorded_run_stays_the_same() -> None:
    parts = split(Y, SplitPlan(), None)
    assert parts["test"].tolist() == [0, 7, 13, 25, 27, 29, 36, 41, 48, 51, 53, 54, 70, 71, 81, 86, 88, 89, 93, 97]
    assert parts["val"].tolist() == [6, 18, 34, 44, 46, 50, 72, 90, 95, 99]
    fold = split(Y, SplitPlan(folds=5, fold=1, per_class=3), None)
    assert fold["test"].tolist() == [1, 3, 4, 8, 12, 17, 26, 32, 35, 50, 55, 59, 60, 64, 69, 77, 86, 88, 90, 94]
    assert fold["train"].tolist() == [10, 27, 29, 31, 34, 36, 38, 58, 65]


def test_an_official_test_part_is_kept() -> None:
    parts = split(Y, SplitPlan(val_fraction=0.2, test_fraction=0.5), 33)
    assert torch.equal(parts["test"], torch.arange(33))
    assert Y[parts["val"]].bincount().tolist() == [10, 6, 4]
    assert covers({"train": parts["train"], "val": parts["val"]})


def test_an_official_validation_part_is_kept() -> None:
    parts = split(Y, SplitPlan(test_fraction=0.2), None, val=torch.arange(90, 100))
    assert torch.equal(parts["val"], torch.arange(90, 100))
    assert covers(parts)
    assert len(parts["test"]) == 18


@pytest.mark.parametrize("official_test", [None, 10])
def test_folds_cover_the_set_and_keep_the_class_balance(official_test: int | None) -> None:
    part = "test" if official_test is None else "val"
    folds = []
    for fold in range(5):
        parts = split(Y, SplitPlan(folds=5, fold=fold), official_test)
        assert Y[parts[part]].bincount().tolist() == [10, 6, 4]
        assert not torch.isin(parts["train"], parts[part]).any()
        folds.append(parts[part])
        if official_test is None:
            assert len(parts["val"]) == 8, "val_fraction is of the rest"
            assert covers(parts)
        else:
            assert torch.equal(parts["test"], torch.arange(official_test))
    assert torch.equal(torch.cat(folds).sort().values, torch.arange(100))


def test_the_size_of_folds_differs_by_one_at_most() -> None:
    sizes = [len(split(Y, SplitPlan(folds=7, fold=fold), None)["test"]) for fold in range(7)]
    assert sorted(sizes) == [14] * 5 + [15] * 2


def test_fraction_takes_a_stratified_share_of_the_training_part_only() -> None:
    whole, part = split(Y, SplitPlan(), None), split(Y, SplitPlan(fraction=0.2), None)
    assert len(part["train"]) == 14
    assert (Y[part["train"]].bincount() - torch.tensor([7.0, 4.2, 2.8])).abs().max() < 1
    assert torch.isin(part["train"], whole["train"]).all()
    assert torch.equal(part["val"], whole["val"])
    assert torch.equal(part["test"], whole["test"])


def test_per_class_takes_so_many_of_each_class() -> None:
    parts = split(Y, SplitPlan(per_class=5), None)
    assert Y[parts["train"]].bincount().tolist() == [5, 5, 5]
    assert len(parts["val"]) == 10


def test_floats_are_split_without_classes() -> None:
    parts = split(torch.rand(100), SplitPlan(), None)
    assert covers(parts)
    assert len(parts["test"]) == 20


def test_zero_means_no_such_part() -> None:
    parts = split(Y, SplitPlan(val_fraction=0, test_fraction=0), None)
    assert torch.equal(parts["train"], torch.arange(100))
    assert len(parts["val"]) == len(parts["test"]) == 0


@pytest.mark.parametrize(
    ("plan", "official_test", "message"),
    [
        (SplitPlan(folds=21, fold=0), None, "class 'c' has 20 samples, fewer than data.folds=21"),
        (SplitPlan(per_class=40), None, "data.per_class=40: class 'a' has only 35"),
        (SplitPlan(val_fraction=0.001), None, "data.val_fraction=0.001 of 100 samples is 0"),
        (SplitPlan(test_fraction=0.001), None, "data.test_fraction=0.001"),
        (SplitPlan(val_fraction=0.999, test_fraction=0), 5, "data.val_fraction=0.999"),
    ],
)
def test_an_impossible_split_is_explained(plan: SplitPlan, official_test: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split(Y, plan, official_test, names=["a", "b", "c"])


def test_a_class_with_one_sample_in_the_test_part_is_named() -> None:
    y = torch.cat((torch.zeros(50, dtype=torch.int64), torch.tensor([1])))
    seeds = [seed for seed in range(40) if 50 in _draw_test(y, seed)]
    assert seeds == [], "the only sample of a class was drawn for the test part without a word"


def _draw_test(y: Tensor, seed: int) -> list[int]:
    try:
        return split(y, SplitPlan(val_fraction=0, test_fraction=0.2, split_seed=seed), None)["test"].tolist()
    except UserError as error:
        assert "class 1 has too few samples (1)" in str(error)
        return []


def test_per_class_needs_classes() -> None:
    with pytest.raises(UserError, match=r"data.per_class=3 requires classes"):
        Tabular(name="diabetes", per_class=3).setup()


def test_all_arguments_out_of_range_are_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        Digits(
            batch_size=0,
            eval_batch_size=-1,
            val_fraction=1.5,
            split_seed=-1,
            seed="x",  # type: ignore[arg-type]
            order="shufled",  # type: ignore[arg-type]
            folds=5,
            fold=-1,
            fraction=0,
            per_class=0,
        )
    keys = "batch_size eval_batch_size val_fraction split_seed seed order fold fraction per_class"
    assert all(f"Digits.{key}=" in str(caught.value) for key in keys.split())
    assert "did you mean 'shuffled'?" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"val_fraction": 0.5, "test_fraction": 0.5},
            r"val_fraction \+ data.test_fraction = 1 leaves nothing",
        ),
        ({"folds": 5, "fold": 5}, r"data.fold=5: expected an integer in 0\.\.4"),
        ({"folds": 5}, "data.folds=5 and data.fold=None: set both"),
        ({"batch_size": 10**30}, r"Digits\.batch_size=10+: expected a value in \[1, 2147483648\)"),
        ({"folds": 1, "fold": 0}, "Digits.folds=1: expected 2 or more"),
        ({"fraction": 0.5, "per_class": 5}, "data.fraction and data.per_class"),
    ],
)
def test_contradicting_settings_are_explained(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Digits(**settings)


def test_a_small_share_has_each_class_at_least_once() -> None:
    y = torch.cat([torch.zeros(990), torch.ones(10)]).long()
    parts = split(y, SplitPlan(val_fraction=0, test_fraction=0, fraction=0.01), None)
    assert len(parts["train"]) in (10, 11)
    assert sorted(set(y[parts["train"]].tolist())) == [0, 1]
