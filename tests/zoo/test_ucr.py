"""Time series: the .ts format, lengths, normalisation, and where the files are looked for."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data.ucr import UCR, interpolate_to_length, read_ts

HEADER = "# a comment\n@problemName Made\n@univariate true\n@classLabel true b a\n@data\n"


def write(root: Path, train: str, test: str, name: str = "Made", header: str = HEADER) -> None:
    (root / name).mkdir(parents=True, exist_ok=True)
    (root / name / f"{name}_TRAIN.ts").write_text(header + train)
    (root / name / f"{name}_TEST.ts").write_text(header + test)


def load(root: Path, **settings: object) -> UCR:
    data = UCR(name="Made", root=root, **{"val_fraction": 0.0, "batch_size": 1, **settings})
    data.setup()
    return data


def test_series_and_classes_are_read_with_their_official_parts(tmp_path: Path) -> None:
    write(tmp_path, "1,2,3:10\n4,5,6:9\n", "7,8,9:9\n")
    data = load(tmp_path, z_normalise=False)
    assert data.arrays.x.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert data.class_names == ["9", "10"], "labels that are numbers are ordered as numbers"
    assert data.arrays.y.tolist() == [1, 0]
    assert data.arrays.test is not None and data.arrays.test[0].tolist() == [[7, 8, 9]]


def test_each_dimension_of_each_series_is_normalised_by_its_population_std(tmp_path: Path) -> None:
    write(tmp_path, "1,3:5,5:a\n10,30:-1,1:b\n", "0,2:0,0:a\n")
    x = load(tmp_path).arrays.x
    assert x.tolist() == [[[-1, 1], [0, 0]], [[-1, 1], [-1, 1]]], "a constant dimension becomes 0"


def test_shorter_series_are_stretched_to_the_longest_of_both_parts(tmp_path: Path) -> None:
    write(tmp_path, "0,2:a\n1,2,3:b\n", "0,1,2,3,4:a\n")
    x = load(tmp_path, z_normalise=False).arrays.x
    assert torch.allclose(x, torch.tensor([[0, 0.5, 1, 1.5, 2], [1, 1.5, 2, 2.5, 3]]))


def test_a_cubic_stretch_goes_through_a_cubic_curve() -> None:
    curve = np.arange(5.0)[None] ** 3
    assert np.allclose(interpolate_to_length([curve], 9, "cubic")[0, 0], np.linspace(0, 4, 9) ** 3)
    with pytest.raises(UserError, match="cubic needs series of at least 4 positions"):
        interpolate_to_length([curve[:, :3]], 9, "cubic")


@pytest.mark.parametrize(
    ("header", "line", "said"),
    [
        (HEADER, "1,?,3:a", "line 6.*missing values"),
        (HEADER, "1,2:1,2,3:a", "line 6"),
        (HEADER, "1,nan:a", "finite"),
        (HEADER, "", "contains no series"),
        (HEADER, "1,2:a\n1,2:3,4:a", "dimensions"),
        (HEADER.replace("@classLabel true b a", "@targetLabel true"), "1,2:0.5", "no classes"),
        ("@timeStamps true\n" + HEADER, "(0,1):a", "time stamps"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path, header: str, line: str, said: str) -> None:
    path = tmp_path / "Made_TRAIN.ts"
    path.write_text(header + line + "\n")
    with pytest.raises(UserError, match=rf"Made_TRAIN.ts.*{said}"):
        read_ts(path)


def test_a_series_that_is_not_there_names_the_nearest_and_how_to_get_some(tmp_path: Path) -> None:
    write(tmp_path, "1,2:a\n", "1,2:a\n")
    with pytest.raises(UserError, match=r"did you mean 'Made'.*pip install --no-deps aeon"):
        UCR(name="Mode", root=tmp_path).setup()
    with pytest.raises(UserError, match=r"UCR.interpolation=cubical: did you mean 'cubic'"):
        UCR(name="Made", root=tmp_path, interpolation="cubical")  # type: ignore[arg-type]


def test_the_root_goes_before_the_package_and_the_package_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "aeon"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    write(package / "datasets" / "data", "1,2:a\n3,5:b\n", "1,2:a\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert load(tmp_path / "root", z_normalise=False).arrays.x.tolist() == [[1, 2], [3, 5]]
    write(tmp_path / "root", "8,9:a\n3,5:b\n", "1,2:a\n")
    assert load(tmp_path / "root", z_normalise=False).arrays.x[0].tolist() == [8, 9]


def test_a_misspelt_series_has_a_hint_without_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_modules.zoo.data.ucr.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"data.name=gunpont: .* no series were found; did you mean 'GunPoint'\?"):
        UCR(name="gunpont", root=str(tmp_path)).setup()
