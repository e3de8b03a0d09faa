from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from lightning_modules.config.errors import UserError
from lightning_modules.data.float64_scaling import first_imprecise_row
from lightning_modules.data.preprocess import preprocess_spec
from lightning_modules.data.tabular import Bundled, Tabular
from lightning_modules.quality.embedding import embed
from lightning_modules.quality.samples import collect_samples

RNG = np.random.RandomState(0)
TABLE = pd.DataFrame({"a": RNG.randn(60), "b": RNG.randint(0, 3, 60), "kind": ["x", "y", "z"] * 20})


def save(table: pd.DataFrame, path: Path) -> Path:
    table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path)
    return path


@pytest.mark.parametrize("name", get_args(Bundled))
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
        ({"a": ["red"] * 60}, {}, "not numbers .*: a"),
        ({}, {"target": "kid"}, "data.target=kid is not a column: did you mean 'kind'"),
        ({}, {"regression": True}, "data.regression=true, but the target 'kind' is not numeric"),
    ],
)
def test_a_table_that_cannot_be_used_is_explained(tmp_path: Path, change: dict, settings: dict, message: str) -> None:
    path = save(TABLE.assign(**change), tmp_path / "mine.csv")
    with pytest.raises(UserError, match=message):
        Tabular(name=None, path=path, **{"target": "kind", **settings}).setup()


def test_whole_numbers_that_hardly_repeat_are_no_classes(tmp_path: Path) -> None:
    path = save(pd.DataFrame({"a": range(12), "price": range(3, 15)}), tmp_path / "prices.csv")
    with pytest.raises(UserError, match=r"price has 12 distinct integers in 12 rows.*data.regression=true"):
        Tabular(name=None, path=path, target="price").setup()
    data = Tabular(name=None, path=path, target="price", regression=True, val_fraction=0.3, test_fraction=0.3)
    data.setup()
    assert data.arrays.y.tolist() == list(range(3, 15))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "irsi"}, "Tabular.name=irsi: did you mean 'iris'"),
        ({"name": "iris", "path": "x.csv"}, "data.name=iris and data.path=x.csv: set one"),
        ({"name": None}, "set one of them"),
        ({"name": None, "path": "x.csv"}, "data.target is missing"),
        ({"name": None, "path": "x.xls", "target": "y"}, "expected a file with suffix .csv, .tsv, .parquet"),
        ({"scaling": "normalize"}, "Tabular.scaling=normalize: did you mean 'normalise'"),
    ],
)
def test_wrong_settings_are_explained(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Tabular(**settings)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
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


def stamps(path: Path, **columns: Any) -> Path:
    start = 1_700_000_000
    table = pd.DataFrame({"time": [start + i for i in range(60)], "a": TABLE["a"], "y": ["lo"] * 30 + ["hi"] * 30})
    return save(table.assign(**columns), path)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("scaling", ["standardise", "normalise"])
def test_values_that_float32_cannot_tell_apart_are_scaled_in_float64(tmp_path: Path, ending: str, scaling: Any) -> None:
    data = Tabular(name=None, path=stamps(tmp_path / f"t.{ending}"), target="y", scaling=scaling)
    data.setup()
    x, train = data.arrays.x, data.splits["train"]
    assert isinstance(x, torch.Tensor) and x.dtype == torch.float64 and data.input_shape == (2,)
    scaler = StandardScaler() if scaling == "standardise" else MinMaxScaler()
    expected = scaler.fit(x[train].numpy()).transform(x.numpy())
    scaled = data.preprocess(x)
    assert scaled.dtype == torch.float32 and len(scaled[:, 0].unique()) == 60
    np.testing.assert_allclose(scaled.numpy(), expected, rtol=0, atol=1e-6)
    again = instantiate(OmegaConf.create(preprocess_spec(data.preprocess)))
    assert torch.equal(again(x), scaled)
    embedding = embed(collect_samples(data))
    assert embedding is not None and len(np.unique(embedding.matrix()[:, 0])) == 60, "inspect sees what training sees"
    with pytest.raises(UserError, match="needs float64"):
        data.preprocess(x.bfloat16())


def test_values_beyond_float32_are_scaled_or_rejected_by_column_and_row(tmp_path: Path) -> None:
    huge = [1.0] * 59 + [1e39]
    data = Tabular(name=None, path=stamps(tmp_path / "t.csv", a=huge), target="y")
    data.setup()
    assert data.preprocess(data.arrays.x).isfinite().all()
    with pytest.raises(UserError, match=r"column 'time', row .*1700000\d+.*float32.*data.scaling=standardise"):
        Tabular(name=None, path=stamps(tmp_path / "t.csv"), target="y", scaling="none").setup()
    for target, said in (
        ([float(i) for i in range(59)] + [1e39], r"column 'y', row 60: 1e\+39 is inf in float32"),
        ([1.7e9 + i + 0.5 for i in range(60)], r"column 'y', row \d+: 17000000\d\d.5 is 17000000\d\d.0 in float32"),
    ):
        path = stamps(tmp_path / "t.csv", y=target)
        with pytest.raises(UserError, match=said):
            Tabular(name=None, path=path, target="y", regression=True).setup()
    with pytest.raises(UserError, match=r"column 'id', row \d+: .* in float64, which cannot"):
        Tabular(name=None, path=stamps(tmp_path / "t.csv", id=[2**60 + i for i in range(60)]), target="y").setup()
    with pytest.raises(UserError, match="column 'a': its values are too large or too small for float64"):
        Tabular(name=None, path=stamps(tmp_path / "t.csv", a=[1e300] * 30 + [-1e300] * 30), target="y").setup()


def test_ordinary_values_stay_float32() -> None:
    rng = np.random.RandomState(0)
    for values in (
        rng.randn(500),
        rng.rand(500) * 1e7,
        np.full(9, 0.1),
        np.arange(2**24 - 9, 2**24),
        rng.lognormal(0, 3, 500),
    ):
        assert first_imprecise_row(values) is None
    assert first_imprecise_row(np.array([0.0, 1e-50] * 4)) is not None


def test_quartiles_of_a_sample_do_not_decide_alone() -> None:
    rng = np.random.RandomState(0)
    for values in (
        1e8 + rng.rand(5000),
        1e8 + rng.rand(5000) ** 9 * 1e6,
        1e8 + np.where(np.arange(5000) % 5, 1, 1e6) * rng.rand(5000),
    ):
        error, (low, high) = np.abs(values - values.astype("f4")), np.percentile(values, [25, 75], method="nearest")
        low, high = (values.min(), values.max()) if low == high else (low, high)
        wrong = np.flatnonzero((values >= low) & (values <= high) & (error > 1e-4 * (high - low)))
        assert first_imprecise_row(values) == (wrong[0] if len(wrong) else None)
