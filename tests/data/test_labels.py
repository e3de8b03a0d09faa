"""Labels: which spellings are one class, what is a class and what a gap, and which classes each part must hold."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules.config.errors import UserError
from lightning_modules.data.in_memory import InMemoryData, RawDataset
from lightning_modules.data.labels import look_like_identifiers, normalize_labels
from lightning_modules.data.tabular import Tabular
from lightning_modules.zoo.data.text_files import TextTable
from lightning_modules.zoo.data.ucr import UCR


def read(kind: str, folder: Path, labels: list[str], test: list[str] | None = None, **settings: Any) -> InMemoryData:
    """A table, a text file or series with these labels, each eight times."""
    if kind == "ucr":
        (folder / "Made").mkdir(exist_ok=True)
        for part, own in (("TRAIN", labels), ("TEST", test or labels)):
            lines = "".join(f"1,2,{i}:{label}\n" for i in range(8) for label in own)
            (folder / "Made" / f"Made_{part}.ts").write_text(f"@classLabel true\n@data\n{lines}")
        return ready(UCR(name="Made", root=folder, **settings))
    for name, own in (("mine.csv", labels), ("test.csv", test or [])):
        rows = "".join(f"{i},{label}\n" for i in range(8) for label in own)
        (folder / name).write_text(f"a,y\n{rows}")
    if kind == "table":
        return ready(Tabular(name=None, path=folder / "mine.csv", target="y", **settings))
    official = str(folder / "test.csv") if test else None
    return ready(TextTable(path=str(folder / "mine.csv"), test_path=official, text="a", label="y", **settings))


def ready(data: Any) -> Any:
    data.setup()
    return data


KINDS = ["table", "text", "ucr"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["EU", "NA", "None"], ["EU", "NA", "None"]),
        (["nan", "null"], ["nan", "null"]),
        (["1", "2", "unknown"], ["1", "2", "unknown"]),
        (["007", "7"], ["007", "7"]),
        (["01", "02", "10"], ["01", "02", "10"]),
        (["3.9", "3.10", "3.11"], ["3.10", "3.11", "3.9"]),
        (["3.1", "3.10"], ["3.1", "3.10"]),
        (["1.2.3", "1.10.0"], ["1.10.0", "1.2.3"]),
        (["Pos", "pos"], ["Pos", "pos"]),
        (["yes", "no"], ["no", "yes"]),
    ],
)
def test_labels_are_the_classes_that_the_file_names(
    tmp_path: Path, kind: str, labels: list[str], names: list[str]
) -> None:
    data = read(kind, tmp_path, labels)
    assert data.class_names is not None and sorted(data.class_names) == names
    assert [data.class_names[y] for y in data.arrays.y.tolist()] == labels * 8


@pytest.mark.parametrize("kind", KINDS)
def test_white_space_around_a_label_is_no_part_of_it(tmp_path: Path, kind: str) -> None:
    said = r"spellings of the same label are read as one class: ' a', 'a' as 'a'"
    if kind == "ucr":  # its lines are stripped as they are read
        assert read(kind, tmp_path, [" a", "a", "b"]).class_names == ["a", "b"]
        return
    with pytest.warns(UserWarning, match=said):
        assert read(kind, tmp_path, [" a", "a", "b"]).class_names == ["a", "b"]


@pytest.mark.parametrize("kind", ["text", "ucr"])
def test_parts_that_write_numbers_otherwise_have_the_same_classes(tmp_path: Path, kind: str) -> None:
    with pytest.warns(UserWarning, match=r"read as one class: '1', '1.0' as '1'; '2', '2.0' as '2'"):
        data = read(kind, tmp_path, ["1", "2"], ["1.0", "2.0"], **({"regression": False} if kind == "text" else {}))
    assert data.class_names == ["1", "2"]
    assert data.arrays.test is not None and data.arrays.test[1].tolist() == [0, 1] * 8


def test_a_table_that_mixes_spellings_with_words_has_one_class_for_each_number(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"'1', '1.0' as '1'"):
        assert read("table", tmp_path, ["1", "1.0", "other"]).class_names == ["1", "other"]


def test_the_shortest_spelling_is_kept_and_single_ones_stay_as_they_are() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert normalize_labels([["1.0", "2.0", "x "]], "column y") == [["1.0", "2.0", "x"]]
    with pytest.warns(UserWarning, match=r"column y: .*'1.0', '1.00' as '1.0'"):
        assert normalize_labels([["1.0"], ["1.00", "2.5", "2.50"]], "column y") == [["1.0"], ["1.0", "2.5", "2.50"]]


def test_numbers_with_a_point_are_versions_only_where_they_repeat_and_are_written_as_such() -> None:
    assert look_like_identifiers(["3.9", "3.10"] * 6)
    for values in (
        ["1.0", "2.0", "5.0"] * 20,
        ["0.5", "0.25"] * 9,
        ["1.50", "2.25"] * 9,
        ["1.5", "1.50", "2.25", "3.75"],
    ):
        assert not look_like_identifiers(values), values


@pytest.mark.parametrize("kind", ["table", "text"])
def test_versions_are_values_if_regression_is_asked_for(tmp_path: Path, kind: str) -> None:
    data = read(kind, tmp_path, ["3.9", "3.10", "3.11"], regression=True)
    assert data.num_classes is None
    assert torch.equal(data.arrays.y[:3], torch.tensor([3.9, 3.1, 3.11]))


@pytest.mark.parametrize("kind", ["table", "text"])
@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["x", "", "y"], r"missing in 8 rows, the first is row 2 \(''\): fill them in or drop the rows$"),
        (["1", "NA", "0"], r"first is row 2 \('NA'\).*data.regression=false makes it a class"),
        (["1.5", "2.5", "nan"], r"first is row 3 \('nan'\)"),
    ],
)
def test_gaps_in_labels_are_rejected(tmp_path: Path, kind: str, labels: list[str], said: str) -> None:
    with pytest.raises(UserError, match=rf"column y: the label is .*{said}"):
        read(kind, tmp_path, labels)
    if "NA" in labels:
        assert read(kind, tmp_path, labels, regression=False).class_names == ["0", "1", "NA"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_class_is_rejected(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match="every sample has class 'cat': at least two classes are required"):
        read(kind, tmp_path, ["cat"])


@pytest.mark.parametrize("kind", ["text", "ucr"])
def test_a_class_that_only_the_test_part_has_is_rejected_and_one_that_it_lacks_is_said_once(
    tmp_path: Path, kind: str
) -> None:
    with pytest.raises(UserError, match="class '3' has 8 samples in the test part, but none in the training part"):
        read(kind, tmp_path, ["1", "2"], ["1", "2", "3"])
    with pytest.warns(UserWarning, match="parts without samples of some classes .*: test: '3'") as caught:
        read(kind, tmp_path, ["1", "2", "3"], ["1", "2"], val_fraction=0.3)
    assert len(caught) == 1


class Given(InMemoryData):
    """A datamodule of a user's own."""

    def __init__(self, y: list[int], names: list[str], val: list[int]) -> None:
        self.given, self.names, self.val = torch.tensor(y), names, torch.tensor(val)
        super().__init__(batch_size=2, test_fraction=0.0)
        self.name = "given"

    def load(self) -> RawDataset:
        x: Tensor = torch.arange(len(self.given)).float()[:, None]
        return RawDataset(x, self.given, class_names=self.names, val=self.val)


def test_every_datamodule_is_checked() -> None:
    with pytest.raises(UserError, match=r"classes '1' and '1.0' are spellings of the same label"):
        Given([0, 1] * 4, ["1", "1.0"], [0, 1]).setup()
    with pytest.raises(UserError, match="class 'b' has too few samples"):
        Given([0, 1, 0, 2, 2], ["a", "b", "c"], [1]).setup()
    with pytest.warns(UserWarning, match="val: 'b'"):
        Given([0, 1] * 4, ["a", "b"], [0]).setup()
