"""`touchstone promote` against a real `mlflow server`: the alias is the server's, and what it names is read from there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import QUICK

from lightning_modules.cli.predict import main as predict
from lightning_modules.cli.promote import main as promote
from lightning_modules.config.command_line import compose_run
from lightning_modules.run.run import run
from lightning_modules.tracking.store import open_store

pytestmark = pytest.mark.slow


def test_a_model_is_promoted_and_read_by_its_alias(
    new_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_server().uri)
    for name, lr in (("poor", "1e-5"), ("good", "1e-2")):
        run(compose_run([*QUICK, "trainer.max_epochs=1", f"name={name}", f"optimizer.lr={lr}"]))
    condition = "only_if=test/accuracy > champion"
    first, second = (promote([name, "as=champion", condition]) for name in ("poor", "good"))
    assert (first["version"], second["version"]) == ("1", "2") and second["name"] == "digits-mlp"
    with pytest.raises(SystemExit):
        promote(["poor", "as=champion", condition])
    client = open_store().client
    assert client.get_model_version_by_alias("digits-mlp", "champion").run_id == second["run_id"]
    np.save(tmp_path / "x.npy", np.zeros((2, 1, 8, 8), np.uint8))
    assert predict(["models:/digits-mlp@champion", f"input={tmp_path}/x.npy"])["samples"] == 2
