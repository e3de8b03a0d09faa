from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lightning_modules.data.tabular import BUNDLED, Tabular
from lightning_modules.errors import UserError

RNG = np.random.RandomState(0)
TABLE = pd.DataFrame({"a": RNG.randn(60), "b": RNG.randint(0, 3, 60), "kind": ["x", "y", "z"] * 20})


def save(table: pd.DataFrame, path: Path) -> Path:
    table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path)
    return path


@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize("scaling", ["standardise", "normalise", "none"])
def test_every_bundled_set_is_finite_after_scaling(name: str, scaling: str) -> None:
    data = Tabular(name=name, scaling=scaling)  # type: ignore[arg-type]
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch["x"].dtype == torch.float32
    assert data.preprocess(batch["x"]).isfinite().all()
    assert (data.num_classes is None) == (name == "diabetes")
    assert batch["y"].dtype == (torch.float32 if name == "diabetes" else torch.int64)
    assert data.name == name


def test_scaling_sees_the_training_part_only() -> None:
    data = Tabular(name="diabetes", split_seed=1)
    data.setup()
    x = data.arrays.x[data.splits["train"]]  # type: ignore[index]
    torch.testing.assert_close(data.preprocess.get_buffer("shift"), x.double().mean(0).float())
    assert x.max() > 1, "diabetes must not come scaled with moments of the whole set"


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_file_of_your_own_is_read(tmp_path: Path, ending: str) -> None:
    data = Tabular(name=None, path=save(TABLE, tmp_path / f"mine.{ending}"), target="kind")
    data.setup()
    assert (data.name, data.num_classes, data.class_names, data.input_shape) == (
        "mine",
        3,
        ["x", "y", "z"],
        (2,),
    )
    assert data.arrays.y.tolist() == [0, 1, 2] * 20


def test_the_target_decides_between_classes_and_regression(tmp_path: Path) -> None:
    path = save(TABLE.drop(columns="kind"), tmp_path / "mine.csv")
    kinds = {}
    for target, regression in (("a", None), ("b", None), ("b", True)):
        data = Tabular(name=None, path=path, target=target, regression=regression, val_fraction=0.2)
        data.setup()
        kinds[target, regression] = data.num_classes
    assert kinds == {("a", None): None, ("b", None): 3, ("b", True): None}


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"a": [np.nan] + [1.0] * 59}, {}, "missing values .*: a"),
        ({"a": [np.inf] + [1.0] * 59}, {}, "infinite values: a"),
        ({"a": ["red"] * 60}, {}, "no numbers .*: a"),
        ({}, {"target": "kid"}, "data.target=kid is no column: did you mean 'kind'"),
        ({}, {"regression": True}, "data.regression=true, but the target 'kind' is no number"),
    ],
)
def test_a_table_that_cannot_be_used_is_explained(tmp_path: Path, change: dict, settings: dict, message: str) -> None:
    path = save(TABLE.assign(**change), tmp_path / "mine.csv")
    with pytest.raises(UserError, match=message):
        Tabular(name=None, path=path, **{"target": "kind", **settings}).setup()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "irsi"}, "data.name=irsi: did you mean 'iris'"),
        ({"name": "iris", "path": "x.csv"}, "data.name=iris and data.path=x.csv: give one"),
        ({"name": None}, "give one of them"),
        ({"name": None, "path": "x.csv"}, "data.target is missing"),
        ({"name": None, "path": "x.xls", "target": "y"}, "the ending must be one of .csv, .parquet"),
        ({"scaling": "normalize"}, "data.scaling=normalize: did you mean 'normalise'"),
    ],
)
def test_wrong_settings_are_explained(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Tabular(**settings)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        Tabular(name=None, path=tmp_path / "no.csv", target="y").setup()


def test_several_target_columns_are_labels_of_one_sample(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"a": [0.0, 1, 2, 3] * 10, "b": [1.0, 0, 1, 0] * 10, "x": [0, 1, 1, 0] * 10, "y": [1, 1, 0, 0] * 10}
    )
    table.to_csv(tmp_path / "labels.csv", index=False)
    data = Tabular(name=None, path=tmp_path / "labels.csv", target=["x", "y"])
    data.setup()
    assert (data.num_classes, data.num_targets, data.input_shape) == (None, 2, (2,))
    index = torch.tensor([0, 1])
    assert data.arrays.y[index].tolist() == [[0.0, 1.0], [1.0, 1.0]]
