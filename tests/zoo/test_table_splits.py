"""Tables are split by groups or by time, so that no part knows of another."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lightning_modules.config.errors import UserError
from lightning_modules.data.tabular import Tabular

N = 200
RNG = np.random.RandomState(0)
TABLE = pd.DataFrame(
    {
        "x": RNG.randn(N),
        "patient": RNG.randint(0, 40, N),
        "visit": (pd.Timestamp("2024-01-01") + pd.to_timedelta(RNG.randint(0, 60, N), "D")).strftime("%Y-%m-%d"),
        "sick": ["yes", "no"] * (N // 2),
    }
)


def parts(folder: Path, frame: pd.DataFrame, **settings: Any) -> dict[str, pd.DataFrame]:
    frame.to_csv(folder / "table.csv", index=False)
    data = Tabular(name=None, path=folder / "table.csv", target="sick", **settings)
    data.setup()
    assert settings["split_by"] not in data.columns  # type: ignore[operator]
    return {name: frame.iloc[index.numpy()] for name, index in data.splits.items()}


@pytest.mark.parametrize("settings", [{}, {"folds": 4, "fold": 2}, {"val_fraction": 0}])
def test_a_group_is_in_one_part(tmp_path: Path, settings: dict[str, Any]) -> None:
    found = parts(tmp_path, TABLE.drop(columns="visit"), split_by="patient", **settings)
    owners = [set(part["patient"]) for part in found.values()]
    assert sum(len(own) for own in owners) == len(set.union(*owners)) == 40
    assert sum(len(part) for part in found.values()) == N
    assert len(found["test"]) == pytest.approx(50 if "folds" in settings else 40, abs=6)


def test_folds_of_groups_cover_all_rows_once(tmp_path: Path) -> None:
    tested = [
        parts(tmp_path, TABLE.drop(columns="visit"), split_by="patient", folds=4, fold=fold)["test"]
        for fold in range(4)
    ]
    assert sorted(pd.concat(tested).index) == list(range(N))


@pytest.mark.parametrize("settings", [{}, {"folds": 3, "fold": 0}, {"folds": 3, "fold": 2}])
def test_the_latest_rows_are_tested(tmp_path: Path, settings: dict[str, Any]) -> None:
    found = parts(tmp_path, TABLE.drop(columns="patient"), split_by="visit", split="time", **settings)
    assert found["train"]["visit"].max() < found["val"]["visit"].min()
    assert found["val"]["visit"].max() < found["test"]["visit"].min()
    rows = {0: 50, 2: 50, None: 40}[settings.get("fold")]
    assert len(found["test"]) == pytest.approx(rows, abs=6)
    assert settings.get("fold") == 0 or found["test"]["visit"].max() == TABLE["visit"].max()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split_by": "patiant"}, "data.split_by=patiant is not a column: did you mean 'patient'"),
        ({"split_by": "sick"}, "data.split_by=sick is the target"),
        ({"split": "time"}, "data.split=time: set data.split_by"),
        ({"split": "time", "split_by": "word"}, "data.split_by=word: expected dates such as"),
        ({"split_by": "hole"}, "data.split_by=hole has missing values, the first is row 3"),
        ({"split_by": "two"}, "data.split_by=two: its 2 different values are too few for this split"),
    ],
)
def test_columns_that_cannot_split_are_explained(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    hole = [0.0, 1, np.nan, *range(N - 3)]
    TABLE.assign(word="soon", hole=hole, two=TABLE["patient"] % 2).to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(UserError, match=message):
        Tabular(
            name=None, path=tmp_path / "table.csv", target="sick", categories="ordinal", missing="mean", **settings
        ).setup()
