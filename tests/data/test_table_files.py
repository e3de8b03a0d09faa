"""Table and text files as people write them: encodings, delimiters, quotes, row numbers, and rows of other widths."""

import csv
import io
import warnings
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_modules.config.errors import UserError
from lightning_modules.data.table_file import read_columns
from lightning_modules.data.tabular import Tabular
from lightning_modules.data.text_encoding import detect_encoding
from lightning_modules.quality.samples import collect_samples
from lightning_modules.zoo.data.text_files import TextFolder, TextTable
from lightning_modules.zoo.data.ucr import UCR

TEXTS = ["good film", "bad film"] * 10


def table(path: Path, target: str = "y", **settings: Any) -> Tabular:
    data = Tabular(name=None, path=path, target=target, **settings)
    data.setup()
    return data


def texts(path: Path, **settings: Any) -> TextTable:
    data = TextTable(path=str(path), tokenizer="spaces", **settings)
    data.setup()
    return data


def shown(data: TextTable) -> list[tuple[str, str]]:
    assert data.class_names is not None
    rows = zip(data.arrays.x, data.arrays.y.tolist(), strict=True)
    return [(data.sample_text(x), data.class_names[y]) for x, y in rows]


def written(rows: list[tuple[str, str]], head: tuple[str, str] = ("text", "label"), **form: Any) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, **form)
    writer.writerows([head, *rows])
    return out.getvalue()


ROWS = [(f"{text} café", "ab"[i % 2]) for i, text in enumerate(TEXTS)]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "latin-1"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_encoding_is_detected_alike_in_tables_text_files_folders_and_series(tmp_path: Path, encoding: str) -> None:
    rows = [(f"{text} \x81" if encoding == "latin-1" else text, label) for text, label in ROWS]  # no cp1252
    (tmp_path / "text.csv").write_bytes(written(rows).encode(encoding))
    (tmp_path / "table.csv").write_bytes(
        written([(str(i), "café" if i % 2 else "thé") for i in range(20)], ("a", "y")).encode(encoding)
    )
    for name in ("café", "thé"):
        (tmp_path / "folder" / name).mkdir(parents=True)
        for i in range(5):
            (tmp_path / "folder" / name / f"{i}.txt").write_bytes("a café".encode(encoding))
    series = "@classLabel true café thé\n@data\n" + "1,2:café\n2,1:thé\n" * 5
    (tmp_path / "Made").mkdir()
    for part in ("TRAIN", "TEST"):
        (tmp_path / "Made" / f"Made_{part}.ts").write_bytes(series.encode(encoding))
    known = encoding.startswith("utf")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert shown(texts(tmp_path / "text.csv", test_fraction=0.3, val_fraction=0.2)) == rows
        folder = TextFolder(root=tmp_path, folder="folder", tokenizer="spaces", test_fraction=0.4, val_fraction=0.4)
        assert folder.sample_text(folder.arrays.x[0]) == "a café"
        assert table(tmp_path / "table.csv", test_fraction=0.3, val_fraction=0.2).class_names == ["café", "thé"]
        data = UCR(name="Made", root=tmp_path, val_fraction=0.2)
        data.setup()
        assert data.class_names == ["café", "thé"]
    said = [str(one.message) for one in caught if "not UTF-8" in str(one.message)]
    assert len(said) == (0 if known else 5), "one for each table, folder and file of series"
    if encoding == "latin-1":
        assert (
            "read as latin-1" in said[0] and "folder/café/0.txt and 9 more files: not UTF-8, read as cp1252" in said[1]
        )


def test_an_encoding_is_set_and_what_it_cannot_decode_is_named(tmp_path: Path) -> None:
    path = tmp_path / "text.csv"
    path.write_bytes(written([("привет", "да"), ("мир", "нет")] * 5).encode("cp1251"))
    assert texts(path, encoding="cp1251", test_fraction=0.4, val_fraction=0.4).class_names == ["да", "нет"]
    with pytest.raises(UserError, match=r"text.csv cannot be decoded.*data.encoding"):
        texts(path, encoding="utf-8")
    for kind in (TextTable, TextFolder, UCR, Tabular):
        with pytest.raises(UserError, match=r"data.encoding=utf8000 is not an encoding"):
            kind(encoding="utf8000")  # type: ignore[call-arg]


def test_utf16_without_a_mark_is_told_from_text_with_zero_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"a\0b text with zeros\0\n")
    assert detect_encoding(path) == "utf-8"
    path.write_bytes("text".encode("utf-16-be"))
    assert detect_encoding(path) == "utf-16-be"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "a.csv",
            "label,text\npos,well, it was\nneg,bad\n",
            r"the header has 2 columns \(label, text\), but row 1 \(line 2\) has 3",
        ),
        ("a.csv", "label,text\n" + "pos,well, it was\n" * 60, r"row 5 \(line 6\) has 3 and 55 more rows"),
        ("a.csv", 'label,text\npos,"a\nb"\n\nneg\n', r"row 2 \(line 5\) has 1\. Quote cells"),
        ("a.tsv", "label\ttext\npos\ta\tb\n", r"row 1 \(line 2\) has 3"),
        ("a.csv", 'label,text\npos,a\nneg,"b\npos,c\n', "a quote that opens on line 3 is never closed"),
    ],
)
def test_rows_of_another_width_than_the_header_are_rejected_by_number(
    tmp_path: Path, name: str, content: str, said: str
) -> None:
    (tmp_path / name).write_text(content)
    for read in (lambda: texts(tmp_path / name), lambda: table(tmp_path / name, "label")):
        with pytest.raises(UserError, match=rf"{name}: .*{said}"):
            read()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("semicolon.csv", "text;label\n" + "a, b;x\nc;y\n" * 5, ("a, b", "x")),
        ("tab.csv", "text\tlabel\n" + "a, b\tx\nc\ty\n" * 5, ("a, b", "x")),
        ("spaces.csv", " text, label \n" + "a, x\nc,y\n" * 5, ("a", "x")),
        ("bom.csv", '\ufeff"text","label"\n' + "a,x\nc,y\n" * 5, ("a", "x")),
        ("newline.csv", "text,label\n" + '"a\nb",x\nc,y\n' * 5, ("a b", "x")),
        ("old_mac.csv", "text,label\r" + "a,x\rc,y\r" * 5, ("a", "x")),
        ("nul.csv", "text,label\n" + "a\0b,x\nc,y\n" * 5, ("a\0b", "x")),
        ("na.csv", "text,label\n" + "NA,None\nc,nan\n" * 5, ("NA", "None")),
        ("quote.tsv", "text\tlabel\n" + '"a\tx\nc\ty\n' * 5, ('"a', "x")),
        ("long.csv", "text,label\n" + f"{'a' * 200_000},x\nc,y\n" * 5, ("a" * 200_000, "x")),
    ],
)
def test_text_files_are_read_as_the_csv_module_reads_them(
    tmp_path: Path, name: str, content: str, expected: tuple[str, str]
) -> None:
    (tmp_path / name).write_bytes(content.encode())
    rows = shown(texts(tmp_path / name, test_fraction=0.2, val_fraction=0.2))
    assert rows[0] == expected and len(rows) == 10


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t"), ("a.csv", "|")])
def test_tables_are_read_as_pandas_reads_them(tmp_path: Path, name: str, delimiter: str) -> None:
    rng = np.random.RandomState(0)
    frame = pd.DataFrame(
        {"a": rng.randn(50), "b": rng.randint(0, 9, 50), "c": rng.rand(50) > 0.5, "y": ["u", "v"] * 25}
    )
    frame.to_csv(tmp_path / name, sep=delimiter, index=False)
    data = table(tmp_path / name)
    known = pd.read_csv(tmp_path / name, sep=delimiter)
    assert np.array_equal(data.arrays.x.numpy(), known[["a", "b", "c"]].to_numpy(np.float32))
    assert (data.columns, data.arrays.y.tolist()) == (["a", "b", "c"], [0, 1] * 25)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_row_numbers_without_a_name_are_dropped(tmp_path: Path, ending: str) -> None:
    rng = np.random.RandomState(0)
    frame = pd.DataFrame({"a": rng.randn(40), "y": [0] * 20 + [1] * 20}).sample(frac=1, random_state=0)
    frame.to_csv(tmp_path / "index.csv")
    if ending == ".parquet":
        pd.read_csv(tmp_path / "index.csv").to_parquet(tmp_path / "index.parquet")
    with pytest.warns(UserWarning, match=r"dropped the unnamed column of row numbers \('Unnamed: 0'\)"):
        data = table(tmp_path / f"index{ending}")
    assert data.columns == ["a"] and data.input_shape == collect_samples(data).shape == (1,)
    assert np.array_equal(data.arrays.x[:, 0].numpy(), frame["a"].to_numpy(np.float32))


def test_an_unnamed_column_of_measurements_is_a_feature(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",b,y\n" + "0.5,1,u\n0.25,2,v\n" * 10)
    assert table(tmp_path / "a.csv").columns == ["Unnamed: 0", "b"]


def test_two_columns_of_one_name_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a, a,y\n" + "1,2,u\n" * 10)
    with pytest.raises(UserError, match="two columns have the name 'a'"):
        table(tmp_path / "a.csv")


def test_parquet_types_become_features_and_classes(tmp_path: Path) -> None:
    n, path = 40, tmp_path / "t.parquet"
    flags = [i % 2 == 0 for i in range(n)]
    frame = pd.DataFrame(
        {
            "int": pd.Series(range(n), dtype="Int64"),
            "bool": pd.Series(flags, dtype="boolean"),
            "level": pd.Series([i % 3 for i in range(n)], dtype="category"),
            "kind": pd.Series(["yes" if flag else "no" for flag in flags], dtype="category"),
            "flag": flags,
        }
    )
    pq.write_table(
        pa.Table.from_pandas(frame).append_column("price", pa.array([Decimal(f"{i}.5") for i in range(n)])), path
    )
    data = Tabular(name=None, path=path, target=["flag", "bool"])
    with pytest.raises(UserError, match=r"not numbers \(encode or drop them\): kind$"):
        data.setup()
    frame.drop(columns="kind").assign(price=[Decimal(f"{i}.5") for i in range(n)]).to_parquet(path)
    data = table(path, "flag")
    assert (data.columns, data.class_names) == (["int", "bool", "level", "price"], ["False", "True"])
    assert data.arrays.x[3].tolist() == [3, 0, 0, 3.5]
    frame[["int", "kind"]].to_parquet(path)
    assert table(path, "kind").class_names == ["no", "yes"]
    pq.write_table(pa.table({"a": [[1.0, float(i)] for i in range(n)], "y": flags}), path)
    with pytest.raises(UserError, match=r"not numbers \(encode or drop them\): a$"):
        table(path)


def test_a_large_file_with_a_word_at_its_end_has_text_labels(tmp_path: Path) -> None:
    lines = [f"{i % 7},{i % 5},{i % 2}\n" for i in range(50_000)]  # pandas reads pieces of 256 kB and types each
    (tmp_path / "big.csv").write_text("a,b,y\n" + "".join(lines) * 2 + "1,1,unknown\n" * 20)
    data = table(tmp_path / "big.csv")
    assert data.class_names == ["0", "1", "unknown"]
    assert data.arrays.y.bincount().tolist() == [50_000, 50_000, 20]


@pytest.mark.parametrize(
    ("gap", "said"), [("a,,y", r"missing values .*: b \(row 2\)"), ("a,inf,y", r"infinite values: b \(row 2\)")]
)
def test_gaps_are_named_by_column_and_row(tmp_path: Path, gap: str, said: str) -> None:
    (tmp_path / "a.csv").write_text("a,b,y\n1,2,u\n" + gap.replace("a", "1") + "\n" + "1,2,v\n" * 9)
    with pytest.raises(UserError, match=said):
        table(tmp_path / "a.csv")


@pytest.mark.parametrize("target", ["a", "c", "e"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_cells_of_a_column_are_those_of_the_csv_module_wherever_it_stands(
    tmp_path: Path, target: str, end: str
) -> None:
    body = ['1,"x, ""y""",p,2,u', "", "1,x,q ,2,v", '"1",x,"r\ns",2,w', "1,x,,2,NA"]
    (tmp_path / "a.csv").write_bytes(end.join(["a,b, c,d,e", *body]).encode())
    with (tmp_path / "a.csv").open(newline="") as opened:
        known = [row for row in csv.reader(opened) if row][1:]
    assert read_columns(tmp_path / "a.csv", [target]) == {target: [row["abcde".index(target)] for row in known]}
