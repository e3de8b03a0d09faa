"""`touchstone data inspect` lists what is wrong with each column of a table, and `clean` writes the repaired table."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lightning_modules.config.errors import UserError
from lightning_modules.quality.commands import compose_quality, inspect_data, write_exclusions
from lightning_modules.quality.table_columns import repaired_table
from lightning_modules.run.build import build_data

N = 60
RNG = np.random.RandomState(0)
TABLE = pd.DataFrame(
    {
        "age": [np.nan, 900.0, *RNG.randint(20, 60, N - 2)],
        "city": ["Rome", None, "Oslo"] * (N // 3),
        "one": 1,
        "again": [np.nan, 900.0, *[0.0] * (N - 2)],
        "sick": ["yes", "no"] * (N // 2),
    }
)
TABLE["again"] = TABLE["age"]


def settings(folder: Path, *more: str) -> Any:
    TABLE.to_csv(folder / "table.csv", index=False)
    source = ("data=tabular", "data.name=null", f"data.path={folder}/table.csv", "data.target=sick")
    return compose_quality([*source, "tracking.enabled=false", f"out={folder}/out.json", *more])


def test_each_column_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    cfg = settings(tmp_path)
    cfg.out = str(tmp_path / "report")
    inspect_data(cfg)
    found = capsys.readouterr()
    assert "read with data.missing=mean data.categories=ordinal" in found.err
    assert "4 of 4 columns need attention" in found.out
    columns = {
        column.pop("column"): column for column in json.loads((tmp_path / "report/report.json").read_text())["columns"]
    }
    assert columns == {
        "age": {"kind": "number", "missing": 1, "distinct": TABLE["age"].nunique(), "outliers": 1, "issue": ""},
        "city": {"kind": "text", "missing": 20, "distinct": 2, "outliers": 0, "issue": ""},
        "one": {"kind": "number", "missing": 0, "distinct": 1, "outliers": 0, "issue": "constant"},
        "again": {
            "kind": "number",
            "missing": 1,
            "distinct": TABLE["age"].nunique(),
            "outliers": 1,
            "issue": "equals age",
        },
    }


def test_missing_text_is_filled_with_what_is_most_frequent_in_the_training_part(tmp_path: Path) -> None:
    cfg = settings(tmp_path, "data.missing=most_frequent", "data.categories=one_hot")
    train = build_data(cfg).splits["train"].tolist()
    rest = sorted(set(range(N)) - set(train))
    rome, few = train[: len(train) // 2 + 1], len(train) - len(train) // 2 - 1
    city = pd.Series("Bern", index=range(N))  # most frequent in the whole table
    city[rome], city[rest[0]] = "Rome", None
    assert few < len(rome) < few + len(rest) - 1
    TABLE.assign(city=city).to_csv(tmp_path / "table.csv", index=False)
    assert repaired_table(build_data(cfg), [])["city"][rest[0]] == "Rome"


def test_the_repaired_table_is_written(tmp_path: Path) -> None:
    repaired = tmp_path / "repaired.csv"
    more = (
        "data.missing=median",
        "data.categories=target",
        "data.clip_z=3",
        "clean.leaks=none",
        "clean.conflicts=false",
    )
    cfg = settings(tmp_path, f"table={repaired}", "clean.duplicates=none", *more)
    write_exclusions(cfg)
    table = pd.read_csv(repaired)
    assert list(table.columns) == ["age", "city", "sick"] and len(table) == N
    assert table["age"].notna().all() and table["age"][2:].tolist() == TABLE["age"][2:].tolist()
    assert 20 < table["age"][0] < 60 and table["age"][1] <= 900
    pd.testing.assert_frame_equal(table[["city", "sick"]], TABLE[["city", "sick"]], check_dtype=False)
    with pytest.raises(UserError, match="expected a new file"):
        write_exclusions(cfg)
