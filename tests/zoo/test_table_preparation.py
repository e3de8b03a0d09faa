"""Tables with missing values, text, dates and outliers are prepared as scikit-learn does, fitted on the training part."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sklearn import preprocessing
from sklearn.impute import SimpleImputer

from lightning_modules.config.errors import UserError
from lightning_modules.data.preprocess import preprocess_spec
from lightning_modules.data.table_input import TableInput
from lightning_modules.data.tabular import Tabular
from lightning_modules.model.mlp import MLP
from lightning_modules.zoo.data.table_settings import useless_columns

N = 120
RNG = np.random.RandomState(0)
AGE = np.where(RNG.rand(N) < 0.2, np.nan, RNG.randint(18, 80, N).astype(float))
CITY = np.where(RNG.rand(N) < 0.1, None, RNG.choice(["Rome", "Oslo", "Lima"], N).astype(object))
PRICE = np.exp(RNG.randn(N))
TABLE = pd.DataFrame({"age": AGE, "city": CITY, "price": PRICE, "bought": ["yes", "no"] * (N // 2)})
SCALERS: dict[str, Any] = {
    "standardise": preprocessing.StandardScaler(),
    "normalise": preprocessing.MinMaxScaler(),
    "robust": preprocessing.RobustScaler(),
    "quantile": preprocessing.QuantileTransformer(n_quantiles=84, subsample=None),
    "power": preprocessing.PowerTransformer(),
}


def table(folder: Path, frame: pd.DataFrame = TABLE, **settings: Any) -> Tabular:
    """A data set of a file, with codes for text and NaN for missing values in its raw samples."""
    frame.to_csv(folder / "table.csv", index=False)
    data = Tabular(name=None, path=folder / "table.csv", **{"target": "bought", **settings})
    data.setup()
    return data


def prepared(data: Tabular) -> np.ndarray:
    found: np.ndarray = data.preprocess(data.arrays.x).double().numpy()
    return found


@pytest.mark.parametrize("scaling", SCALERS)
@pytest.mark.parametrize("missing", ["mean", "median", "most_frequent"])
def test_numbers_are_filled_and_scaled_like_scikit_learn_on_the_training_part(
    tmp_path: Path, scaling: str, missing: str
) -> None:
    data = table(tmp_path, TABLE.drop(columns="city"), missing=missing, scaling=scaling)
    raw, train = TABLE[["age", "price"]].to_numpy(), data.splits["train"].numpy()
    assert len(train) == 84, "the quantiles of all training samples"
    filled = SimpleImputer(strategy=missing).fit(raw[train]).transform(raw)
    expected = SCALERS[scaling].fit(filled[train]).transform(filled)
    found = prepared(data)
    if scaling == "quantile":  # 256 quantiles interpolated from 84
        np.testing.assert_allclose(found, expected, atol=0.02)
    else:
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_indicators_constants_and_single_columns(tmp_path: Path) -> None:
    columns = {"age": {"missing": -1, "scaling": "none"}, "city": "drop", "price": {"log": True, "scaling": "none"}}
    data = table(tmp_path, missing="indicator", columns=columns)
    np.testing.assert_allclose(prepared(data), np.stack([np.nan_to_num(AGE, nan=-1), np.log1p(PRICE)], 1), rtol=1e-6)
    data = table(tmp_path, TABLE.drop(columns="city"), missing="indicator", scaling="none")
    assert prepared(data)[:, 2].tolist() == np.isnan(AGE).astype(float).tolist()
    assert data.model_settings() == {"input_shape": [3]}


def test_outliers_are_clipped_at_deviations_of_the_training_part(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"in the training part clip_z clips values of price \((\d+)\)") as told:
        data = table(tmp_path, TABLE[["price", "bought"]], clip_z=1.5, scaling="none")
    trained = PRICE[data.splits["train"].numpy()]
    expected = PRICE.clip(trained.mean() - 1.5 * trained.std(), trained.mean() + 1.5 * trained.std())
    np.testing.assert_allclose(prepared(data)[:, 0], expected, rtol=1e-6)
    clipped = int((trained != expected[data.splits["train"].numpy()]).sum())
    assert any(f"({clipped})" in str(one.message) for one in told)


def test_unseen_and_missing_categories_have_their_own_slot(tmp_path: Path) -> None:
    data = table(tmp_path, TABLE[["city", "bought"]], missing="indicator", categories="one_hot")
    rows = data.inputs.samples(pd.DataFrame({"city": ["Lima", "Oslo", "Rome", None, "Bern"]}), "a table")
    assert data.preprocess(rows).tolist() == torch.eye(5).tolist()
    only = TABLE.assign(city=["rare", *["Oslo", "Rome"] * 59, "Oslo"])
    data = table(
        tmp_path, only[["city", "bought"]], categories="one_hot", split_seed=next(_seeds_with_rare_in_test(only))
    )
    assert data.preprocess(data.arrays.x[:1]).tolist() == [[0, 0, 1]], "a category of the test part is not learned"


def _seeds_with_rare_in_test(frame: pd.DataFrame) -> Any:
    from lightning_modules.data.split import SplitPlan, split

    y = torch.from_numpy((frame["bought"] == "yes").to_numpy().astype(int))
    return (seed for seed in range(100) if 0 in split(y, SplitPlan(split_seed=seed), None)["test"])


def test_target_encoding_uses_the_other_folds_in_training_as_scikit_learn_does(tmp_path: Path) -> None:
    frame = TABLE.assign(city=RNG.choice(["a", "b", "c"], N), bought=RNG.rand(N))
    data = table(tmp_path, frame[["city", "bought"]], categories="target", scaling="none")
    train, test = data.splits["train"].numpy(), data.splits["test"].numpy()
    encoder = preprocessing.TargetEncoder(shuffle=True, random_state=0)
    x, y = frame[["city"]].to_numpy(), data.arrays.y.double().numpy()
    expected = encoder.fit_transform(x[train], y[train])
    np.testing.assert_allclose(prepared(data)[train], expected, rtol=1e-5)
    np.testing.assert_allclose(prepared(data)[test], encoder.transform(x[test]), rtol=1e-5)
    assert len(np.unique(expected.round(9))) > 3, "each fold has its own means"
    rows = data.inputs.samples(pd.DataFrame({"city": ["a", "z"]}), "a table")
    np.testing.assert_allclose(data.preprocess(rows)[1], y[train].mean(), rtol=1e-5)


def test_embedded_categories_come_last_and_the_unseen_have_a_slot_that_stays_zero(tmp_path: Path) -> None:
    columns = {"city": {"categories": "embedding"}}
    frame = TABLE.assign(kind=["a", "b", "c"] * (N // 3))[["city", "kind", "price", "bought"]]
    data = table(tmp_path, frame, missing="indicator", categories="one_hot", columns=columns)
    assert data.model_settings() == {"input_shape": [6], "category_sizes": [5]}
    rows = pd.DataFrame({"city": ["Lima", "Rome", None, "Bern"], "kind": "b", "price": 1.0})
    x = data.preprocess(data.inputs.samples(rows, "a table"))
    assert x[:, -1].tolist() == [0, 2, 3, 4] and x[0, 1:5].tolist() == [0, 1, 0, 0]
    model = MLP([6], 2, hidden=[8], category_sizes=[5])
    assert model.hidden[0].in_features == 5 + 4, "4 numbers for 5 categories by fastai's rule"
    assert model.embedding is not None and model.embedding(x)[:, :5].tolist() == x[:, :5].tolist()
    vectors = model.embedding(x)[:, 5:]
    assert vectors[3].tolist() == [0] * 4 and (vectors[:3] != 0).all() and len(vectors.unique(dim=0)) == 4
    model(x).sum().backward()
    gradient = model.embedding.tables[0].weight.grad
    assert gradient is not None and (gradient != 0).any(1).tolist() == [True, False, True, True, False]


def test_dates_become_their_parts(tmp_path: Path) -> None:
    when = pd.date_range("1899-12-30T23:59:00", periods=N, freq="337D") + pd.to_timedelta(RNG.randint(0, 86400, N), "s")
    parts = ["year", "month", "day", "weekday", "hour"]
    frame = TABLE.assign(when=when.strftime("%Y-%m-%dT%H:%M:%S"))[["when", "bought"]]
    data = table(tmp_path, frame, dates=parts, scaling="none")
    assert prepared(data).tolist() == np.stack([getattr(when, part) for part in parts], 1).astype(float).tolist()
    assert data.inputs.frame(data.arrays.x[:2].numpy())["when"].tolist() == frame["when"][:2].tolist()
    with pytest.raises(UserError, match="column 'when': expected dates such as 2024-05-31"):
        data.inputs.samples(pd.DataFrame({"when": ["soon"]}), "a table")


def test_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    frame = TABLE.assign(bought=[None, *TABLE["bought"][1:]])
    with pytest.warns(
        UserWarning, match=r"\d+ of 120 rows have missing values \(missing=drop\) and were dropped, .* row 1"
    ):
        data = table(tmp_path, frame[["age", "bought"]], missing="drop")
    assert len(data.arrays.x) == int((~np.isnan(AGE[1:])).sum()) == len(data.arrays.y)
    with pytest.warns(UserWarning, match="1 of 120 rows"):
        data = table(tmp_path, frame, missing="mean", categories="one_hot", columns={"bought": {"missing": "drop"}})
    assert len(data.arrays.x) == N - 1
    with pytest.raises(UserError, match=r"missing|empty"):
        table(tmp_path, frame, missing="mean", categories="one_hot")


def test_constant_and_equal_columns_are_reported(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"columns are constant: one; columns equal another one: again \(as price\)"):
        table(tmp_path, TABLE[["price", "bought"]].assign(one=1, again=PRICE), clip_z=9)


@pytest.mark.parametrize("categories", ["one_hot", "ordinal", "target", "embedding"])
def test_the_preparation_is_rebuilt_from_plain_values(tmp_path: Path, categories: Any) -> None:
    data = table(tmp_path, missing="indicator", categories=categories, scaling="power", clip_z=3)
    again = instantiate(OmegaConf.create(preprocess_spec(data.preprocess)), _convert_="all")
    assert torch.equal(again(data.arrays.x), data.preprocess(data.arrays.x))
    inputs = TableInput.of({"inputs": data.inputs.plain()})
    assert inputs is not None and inputs.plain() == data.inputs.plain()
    other = table(tmp_path, missing="indicator", categories=categories, scaling="power", clip_z=2)
    assert data.content_fingerprint() == other.content_fingerprint() and data.fingerprint() != other.fingerprint()


def test_text_and_settings_are_part_of_the_fingerprints(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"missing": "mean", "categories": "one_hot"}
    renamed = TABLE.assign(city=TABLE["city"].replace("Rome", "Roma"))
    assert (
        table(tmp_path, **settings).content_fingerprint() != table(tmp_path, renamed, **settings).content_fingerprint()
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"missing": "mean"}, r"city \(text: set data.categories\); or drop one with data.columns"),
        ({"categories": "one_hot"}, r"missing values .*: age \(row \d+\)"),
        ({"columns": {"agee": "drop"}}, "'agee' is not a column: did you mean 'age'"),
        ({"columns": {"age": {"mising": "mean"}}}, "data.columns.age.mising is not a setting: did you mean 'missing'"),
        ({"columns": {"age": {"missing": "avg"}}}, "data.columns.age: missing=avg"),
        ({"columns": {"age": 3}}, r"data.columns.age=3: expected settings such as \{missing: median\}, or drop"),
        ({"columns": {"bought": {"log": True}}}, "the target can have one setting, missing: drop"),
        ({"missing": "average"}, "Tabular.missing=average"),
    ],
)
def test_settings_that_do_not_fit_are_explained(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        table(tmp_path, **settings)


def test_a_column_without_values_in_the_training_part_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="column 'age' in the training part: it has no value"):
        table(tmp_path, TABLE.assign(age=np.nan), missing="mean", categories="one_hot")


def test_columns_that_differ_between_the_compared_samples_are_not_equal() -> None:
    values = pd.Series(np.arange(1000.0)).mask(lambda v: v == 3)
    table = pd.DataFrame({"a": values, "b": values, "c": values.mask(values == 1, 7), "d": 0.0, "e": 0.0})
    table.loc[1, "e"] = 1
    assert useless_columns(table) == {"b": "a", "d": None}
