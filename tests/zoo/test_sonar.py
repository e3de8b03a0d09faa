"""The Sonar set, from UCI's CSV and from R's file."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data import sonar
from lightning_modules.zoo.data.sonar import Sonar

VALUES = np.arange(240).reshape(4, 60) / 240


@pytest.fixture(autouse=True)
def without_debian(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sonar, "DEBIAN", Path("/usr/lib/R/none/Sonar.rda"))
    (tmp_path / "sonar").mkdir()


def test_the_csv_gives_energies_and_classes(tmp_path: Path) -> None:
    rows = [",".join(f"{v:.4f}" for v in row) + f",{label}" for row, label in zip(VALUES, "RRMM", strict=True)]
    (tmp_path / "sonar" / "sonar.all-data").write_text("\n".join(rows) + "\n")
    arrays = Sonar(root=tmp_path).load()
    assert np.allclose(arrays.x.index_select(0, arrays.y), VALUES[[1, 1, 0, 0]], atol=1e-4)
    assert arrays.class_names == ["mine", "rock"] and arrays.y.tolist() == [1, 1, 0, 0]


def test_the_file_of_r_is_read_by_rdata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sonar" / "Sonar.rda").write_bytes(b"RDX3")
    table = pd.DataFrame(VALUES).assign(Class=list("RRMM"))
    monkeypatch.setitem(sys.modules, "rdata", SimpleNamespace(read_rda=lambda path, **_: {"Sonar": table}))
    arrays = Sonar(root=tmp_path).load()
    assert np.allclose(arrays.x.index_select(0, arrays.y * 0), VALUES[[0]]) and arrays.y.tolist() == [1, 1, 0, 0]
    monkeypatch.setitem(sys.modules, "rdata", None)
    with pytest.raises(UserError, match="needs the package rdata: pip install"):
        Sonar(root=tmp_path).load()


def test_a_missing_file_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)sonar.all-data nor.*apt-get download r-cran-mlbench"):
        Sonar(root=tmp_path).setup()


@pytest.mark.parametrize("text", ["0.1,0.2,M\n", "a,b\n", ",".join(["0"] * 60) + ",X\n", ""])
def test_another_or_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "sonar" / "sonar.all-data").write_text(text)
    with pytest.raises(UserError, match=r"sonar.all-data is"):
        Sonar(root=tmp_path).load()
