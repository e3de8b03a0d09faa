"""A claim on a LightningModule and a LightningDataModule of the user's own is run and judged, if the data are known."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import service_modules
from claim_project import Project

from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.reproduction.compose import ComposedClaim
from lightning_modules.reproduction.reproduce import data_hash

CONFIG = {
    "defaults": [
        {"override /task": "lightning_module"}, {"override /data": "lightning_datamodule"}, {"override /callbacks": "last"},
    ],
    "task": {"_target_": "service_modules.ImageTask"},
    "trainer": {"max_epochs": 5},
    "tracking": {"system_metrics_s": None, "pictures": False},
}  # fmt: skip
CLAIM = {
    "seeds": [0, 1],
    "metric": "test_accuracy",
    "value": 40.0,
    "tolerance": {"value": 10.0, "why": "31 test samples"},
    "expect": ["REPRODUCED", "CONSISTENT", "INCONCLUSIVE"],
}


def test_a_claim_on_declared_data_names_what_they_need() -> None:
    words = ("task=lightning_module", "task._target_=service_modules.ImageTask", "data=lightning_datamodule")
    cfg = compose_run([*words, "data._target_=service_modules.Images"])
    claim: Any = None  # not looked at
    with pytest.raises(
        UserError, match=r"content of the data=Images, which is declared by .* set data\.data_files, or give"
    ):
        data_hash(ComposedClaim("mine/declared", claim, cfg))


@pytest.mark.slow
def test_a_claim_on_a_module_and_data_of_ones_own_is_checked_and_judged(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "service_modules")
    shutil.copy(Path(str(service_modules.__file__)), project.folder)
    images = project.folder / "images.bin"
    images.write_bytes(b"the data")
    data = {"_target_": "service_modules.Images", "data_files": [str(images)]}
    project.claim("mine/unhashed", {**CLAIM, "data": None}, {**CONFIG, "data": data})
    linted = project.reproduce("mine", "lint=true")
    found = re.search(r"unhashed.*add data: ([0-9a-f]{64})", linted.stdout)
    assert found, linted.stdout + linted.stderr
    assert "mine/unhashed: 1 mistakes" in linted.stdout
    monitor = {"monitor": {"metric": "val_accuracy", "mode": "max"}}
    best = {"defaults": CONFIG["defaults"][:2], "task": {**CONFIG["task"], **monitor}, "data": data}
    project.claim("mine/best", {**CLAIM, "data": found[1], "selection": "best_val"}, {**CONFIG, **best})
    judged = project.reproduce("mine/best")
    assert judged.returncode == 0, judged.stdout + judged.stderr  # a verdict other than INVALID
