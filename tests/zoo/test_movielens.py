"""Ratings, in the two formats that ml-100k is found in."""

from pathlib import Path

import pytest
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data.movielens import MovieLens

ROWS = [(7, 20, 5, 900), (3, 10, 1, 800), (7, 10, 4, 901), (9, 30, 2, 700), (3, 30, 3, 801)]
HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def write(root: Path, name: str, header: str = "") -> None:
    (root / "ml-100k").mkdir(exist_ok=True)
    (root / "ml-100k" / name).write_text(header + "".join("\t".join(map(str, row)) + "\n" for row in ROWS))


@pytest.mark.parametrize(("name", "header"), [("u.data", ""), ("ml-100k.inter", HEADER)])
def test_users_and_items_are_counted_from_zero_by_their_ids(tmp_path: Path, name: str, header: str) -> None:
    write(tmp_path, name, header)
    data = MovieLens(root=tmp_path)
    arrays = data.load()
    assert torch.equal(torch.as_tensor(arrays.x), torch.tensor([[1, 1], [0, 0], [1, 0], [2, 2], [0, 2]]))
    assert arrays.y.tolist() == [5, 1, 4, 2, 3] and arrays.y.dtype == torch.float32
    assert data.user_ids.tolist() == [3, 7, 9] and data.timestamps.tolist() == [900, 800, 901, 700, 801]


def test_each_rating_is_tested_in_one_fold_and_the_mean_is_that_of_the_others(tmp_path: Path) -> None:
    write(tmp_path, "u.data")
    tested = []
    for fold in range(5):
        data = MovieLens(root=tmp_path, folds=5, fold=fold, val_fraction=0.0)
        data.setup()
        tested += data.splits["test"].tolist()
        mean = data.arrays.y[data.splits["train"]].mean()
        assert data.model_settings() == {"num_users": 3, "num_items": 3, "mean": pytest.approx(float(mean))}
    assert sorted(tested) == [0, 1, 2, 3, 4]


def test_missing_or_damaged_ratings_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)neither ml-100k.inter nor u.data.*pip download --no-deps recbole"):
        MovieLens(root=tmp_path).setup()
    write(tmp_path, "u.data", "no\tnumbers\there\tnow\n")
    with pytest.raises(UserError, match=r"u.data is damaged"):
        MovieLens(root=tmp_path).setup()
    (tmp_path / "ml-100k" / "u.data").write_text("1\t2\t3\n")
    with pytest.raises(UserError, match="not a table of ratings"):
        MovieLens(root=tmp_path).setup()
