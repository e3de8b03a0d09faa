"""A model of a table with missing values and text takes raw rows: in files, in the served model and in exports."""

import csv
import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.run.input_files import read_samples
from lightning_modules.run.predict import find_model, predict

N = 120
RNG = np.random.RandomState(0)
CITY = np.where(RNG.rand(N) < 0.2, None, RNG.choice(["Rome", "Oslo", "007"], N).astype(object))
AGE = np.where(RNG.rand(N) < 0.2, np.nan, RNG.randint(18, 80, N).astype(float))
DAYS = pd.date_range("2024-01-01", periods=N).strftime("%Y-%m-%d")
JOB = RNG.choice(["cook", "nurse"], N)
FRAME = pd.DataFrame(
    {"age ${x}": AGE, "city": CITY, "job": JOB, "day": DAYS, "y": np.where(CITY == "Rome", "yes", "no")}
)
ROWS = pd.DataFrame(
    {"day": ["2024-02-29", None], "job": ["pilot", None], "city": ["Bern", None], "age ${x}": [None, 1e6]}
)

FORMATS = ("onnx", "pt2", *(["aoti"] if shutil.which(os.environ.get("CXX", "g++")) else []))


def scores_of(task: Any, wanted: Any, frame: pd.DataFrame, folder: Path) -> tuple[np.ndarray, list[str]]:
    """The probabilities of a file's rows, and the classes that the command writes."""
    frame.to_csv(folder / "rows.csv", index=False)
    with torch.inference_mode():
        scores = task.scores(task(read_samples(folder / "rows.csv", wanted))).numpy()
    out = io.StringIO()
    predict(task, wanted, folder / "rows.csv", out)
    return scores, [row["class"] for row in csv.DictReader(io.StringIO(out.getvalue()))]


@pytest.mark.slow
def test_raw_rows_are_taken_by_name_wherever_the_model_is_used(train: Any, store: Any, tmp_path: Path) -> None:
    import mlflow
    from mlflow.exceptions import MlflowException

    from lightning_modules.export.export import export_run, write_mlmodel

    FRAME.to_csv(tmp_path / "table.csv", index=False)
    settings = (
        "data=tabular", "data.name=null", "data.target=y", "optimizer.lr=0.1", "trainer.max_epochs=20",
        "data.missing=indicator", "data.categories=one_hot", "data.scaling=power", "data.clip_z=3",
        "data.dates=[month,weekday]", "data.columns={city: {categories: target}, job: {categories: embedding}}",
    )  # fmt: skip
    run = train(f"data.path={tmp_path}/table.csv", "model=linear", *settings)
    with pytest.raises(UserError, match=r"model=series_fcn has no argument category_sizes.*; try model=mlp"):
        train(f"data.path={tmp_path}/table.csv", "model=series_fcn", *settings)
    task, wanted = find_model(store, run.info.run_id)
    scores, names = scores_of(task, wanted, FRAME, tmp_path)
    assert np.isfinite(scores).all() and (np.array(names) == FRAME["y"]).mean() > 0.9
    swapped, _ = scores_of(task, wanted, FRAME[["y", "day", "job", "city", "age ${x}"]], tmp_path)
    assert np.array_equal(swapped, scores)
    digits, _ = scores_of(task, wanted, FRAME[FRAME["city"] == "007"], tmp_path)
    assert np.array_equal(digits, scores[FRAME["city"] == "007"]), "text that looks like numbers stays text"
    unseen, _ = scores_of(task, wanted, ROWS, tmp_path)
    assert np.isfinite(unseen).all() and unseen.shape == (2, 2)

    served = mlflow.pyfunc.load_model(f"models:/{run.data.tags['touchstone.model_id']}")
    exported = []
    for form in FORMATS:
        (tmp_path / form).mkdir()
        found, _ = export_run(store, run, form, False, tmp_path / form)
        write_mlmodel(found.path, read_samples(tmp_path / "rows.csv", wanted), run.info.run_id, found.table)
        exported.append(mlflow.pyfunc.load_model(str(found.path.parent)))
    for loaded in (served, *exported):
        given = FRAME.drop(columns="y").astype(object)
        np.testing.assert_allclose(loaded.predict(FRAME), scores, atol=1e-6)
        np.testing.assert_allclose(loaded.predict(given.where(given.notna(), None)), scores, atol=1e-6)
        np.testing.assert_allclose(loaded.predict(given.to_numpy()), scores, atol=1e-6)
        np.testing.assert_allclose(loaded.predict(ROWS), unseen, atol=1e-6)
        example = loaded.input_example if hasattr(loaded, "input_example") else ROWS
        assert np.isfinite(loaded.predict(example)).all()
        with pytest.raises(MlflowException, match="missing columns: city"):
            loaded.predict(ROWS.drop(columns="city"))
    with pytest.raises(UserError, match=r"not numbers .*: age \$\{x\}"):
        scores_of(task, wanted, ROWS.assign(**{"age ${x}": "old"}), tmp_path)
