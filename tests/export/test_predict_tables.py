"""A model of a table is given tables: columns are matched by name in files, in the served model and in exports."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.data.table_input import TableInput
from lightning_modules.run.input_files import InputSpec, list_files, read_samples
from lightning_modules.run.predict import find_model, predict
from lightning_modules.run.serve import load_task
from lightning_modules.tracking.resume import best_checkpoint

START = 1_700_000_000
RNG = np.random.RandomState(0)
FRAME = pd.DataFrame({"time": START + np.arange(60), "a ${x}": RNG.rand(60), "y": ["lo", "hi"] * 30})
INPUTS = FRAME[["time", "a ${x}"]]


@pytest.fixture
def model(train: Any, store: Any, tmp_path: Path) -> Any:
    """A run on a table whose time stamps need float64."""
    FRAME.to_csv(tmp_path / "table.csv", index=False)
    return train("data=tabular", "data.name=null", f"data.path={tmp_path}/table.csv", "data.target=y", "model=linear")


def predicted(task: Any, wanted: InputSpec, path: Path) -> list[tuple[str, str]]:
    out = io.StringIO()
    predict(task, wanted, path, out)
    return [(row["class"], row["probability"]) for row in csv.DictReader(io.StringIO(out.getvalue()))]


@pytest.mark.slow
def test_columns_are_matched_by_name_wherever_the_model_is_used(model: Any, store: Any, tmp_path: Path) -> None:
    import mlflow
    from mlflow.exceptions import MlflowException

    from lightning_modules.export.export import export_run, write_mlmodel

    task, wanted = find_model(store, model.info.run_id)
    recorded = load_task(best_checkpoint(store, model))
    assert recorded.task_spec["inputs"] == {"columns": ["time", "a ${x}"], "dtype": "float64"}
    assert type(recorded.preprocess).__name__ == "Float64Affine"
    with torch.inference_mode():
        scores = task.scores(task(torch.from_numpy(INPUTS.to_numpy()))).numpy()
    assert len(np.unique(scores, axis=0)) == 60, "time stamps stay distinct"
    names = ["lo" if row.argmax() else "hi" for row in scores]
    files = {
        "same.csv": INPUTS,
        "swapped.csv": INPUTS[["a ${x}", "time"]],
        "indexed.tsv": INPUTS,
        "extra.parquet": FRAME[["y", "a ${x}", "time"]],
    }
    for name, frame in files.items():
        path = tmp_path / name
        if name.endswith("parquet"):
            frame.to_parquet(path)
        else:
            frame.to_csv(path, index="indexed" in name, sep="\t" if name.endswith("tsv") else ",")
        found = predicted(task, wanted, path)
        assert [row[0] for row in found] == names, name
        assert [float(row[1]) for row in found] == pytest.approx(scores.max(1).tolist(), abs=1e-6), name
    served = mlflow.pyfunc.load_model(f"models:/{model.data.tags['touchstone.model_id']}")
    found, _ = export_run(store, model, "pt2", False, tmp_path)
    write_mlmodel(found.path, torch.from_numpy(INPUTS.to_numpy()[:4]), model.info.run_id, found.table)
    for loaded, close in ((served, 0), (mlflow.pyfunc.load_model(str(tmp_path)), 1e-6)):
        for given in (INPUTS, FRAME[["y", "a ${x}", "time"]], INPUTS.to_numpy(), INPUTS.to_numpy().tolist()):
            np.testing.assert_allclose(loaded.predict(given), scores, rtol=0, atol=close)
        with pytest.raises(MlflowException, match=r"missing columns: time; the model expects time, a \$\{x\}"):
            loaded.predict(INPUTS[["a ${x}"]])


def write(folder: Path, content: str, name: str = "t.csv") -> list[Path]:
    (folder / name).write_text(content)
    return list_files(folder / name)


WANTED = InputSpec((2,), torch.float32, table=TableInput(("a", "b"), torch.float32))


def samples(files: list[Path], wanted: InputSpec = WANTED) -> list[list[float]]:
    [file] = files
    return read_samples(file, wanted).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("b,a\n2,1\n", None),
        ("b;a\n2;1\n", None),
        (" b,a\n2,1\n", None),
        ("word,b,a\nx,2,1\n", "ignored columns that the model does not use: word"),
        (",b,a\n0,2,1\n", "row numbers"),
        ("1,2\n", "it has no column names: its columns are matched by position"),
    ],
)
def test_tables_of_another_layout_give_the_same_samples(tmp_path: Path, content: str, said: str | None) -> None:
    if said:
        with pytest.warns(UserWarning, match=said):
            assert samples(write(tmp_path, content)) == [[1, 2]]
    else:
        assert samples(write(tmp_path, content)) == [[1, 2]]


@pytest.mark.filterwarnings("ignore:.*matched by position")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("b,c\n2,1\n", "missing columns: a; the model expects a, b"),
        ("c,d\n2,1\n", "missing columns: a, b; the model expects a, b"),
        ("a,b\n1,x\n", r"not numbers \(encode or drop them\): b"),
        ("a,b\n1,2\n1,\n", r"missing values .*: b \(row 2\)"),
        ("a,b\n1,1e39\n", r"column 'b', row 1: 1e\+39 cannot be represented in float32"),
        ("a,b\n1,2,3\n", r"row 1 \(line 2\) has 3"),
        ("1,2,3\n", "has 3 columns; the model expects a, b"),
    ],
)
def test_tables_that_do_not_fit_are_rejected(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        samples(write(tmp_path, content))


def test_a_model_without_column_names_is_given_columns_by_position(train: Any, store: Any, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="recorded without column names: its columns are matched by position"):
        wanted = InputSpec((2,), torch.float32, table=TableInput((), torch.float32))
        assert samples(write(tmp_path, "b,a\n1,2\n"), wanted) == [[1, 2]]
    images = InputSpec((1, 1, 2), torch.uint8)
    assert samples(write(tmp_path, "0,1\n7,9\n"), images) == [[[[7, 9]]]], "numbered columns are a header"
    assert samples(write(tmp_path, "7,9\n"), images) == [[[[7, 9]]]]
    with pytest.raises(UserError, match=r"column 'p', row 1: 300 cannot be represented in uint8"):
        samples(write(tmp_path, "p,q\n300,1\n"), images)


def test_texts_come_from_the_column_that_was_trained_on_in_any_encoding(tmp_path: Path) -> None:
    wanted = InputSpec(
        (3,), torch.int32, encode=lambda texts: torch.tensor([[len(text)] * 3 for text in texts]), text="words"
    )
    for name, encoding in (("t.csv", "utf-16"), ("u.csv", "utf-8-sig")):
        (tmp_path / name).write_bytes("label,words\nx,café\ny,NA\n".encode(encoding))
        assert samples(list_files(tmp_path / name), wanted) == [[4] * 3, [2] * 3]
    with pytest.warns(UserWarning, match="not UTF-8, read as cp1252"):
        (tmp_path / "l.txt").write_bytes("café\n\nthé\n".encode("cp1252"))
        assert samples(list_files(tmp_path / "l.txt"), wanted) == [[4] * 3, [0] * 3, [3] * 3]
    with pytest.raises(UserError, match="has no column 'words', which the model expects to contain the texts"):
        samples(write(tmp_path, "text\na\n"), wanted)
