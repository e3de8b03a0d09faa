"""The user's own modules are part of a run's code: of its signature, and of its record."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import QUICK

from lightning_modules.config.command_line import compose_run
from lightning_modules.run.run import run
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.rerun import _print_user_code_changes
from lightning_modules.tracking.run_cache import CachedRun, run_signature
from lightning_modules.tracking.user_code import user_modules

SOURCES = {
    "ownlab/__init__.py": "",
    "ownlab/unused.py": "",
    "ownlab/parts/__init__.py": "from .late import Late\n",
    "ownlab/parts/late.py": "import pytorch_lightning as pl\n\nclass Late(pl.Callback):\n    def setup(self, *_, **__):\n"
    "        from ..rules import bound\n        import ownlab_other.numbers as n\n",
    "ownlab/rules.py": "import os\nfrom torch import nn\nbound = 1\n",
    "ownlab_other/numbers.py": "import ownlab_single\n",  # a namespace package
    "ownlab_single.py": "from lightning_modules.config.errors import UserError\n",
}
TARGET = {"callbacks": {"mine": {"_target_": "ownlab.parts.Late"}, "list": [{"_target_": "torch.nn.ReLU"}]}}


def git(folder: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=Ann", "-c", "user.email=ann@example.org", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of the user's beside the project's, on the import path."""
    folder = tmp_path / "lab"
    for name, text in SOURCES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("TOUCHSTONE_TRUST", "ownlab")
    return folder


def test_the_code_of_a_run_is_what_its_targets_come_from_and_import(lab: Path) -> None:
    found = {name: path.relative_to(lab).as_posix() for name, path in user_modules(TARGET).items()}
    assert found == {
        "ownlab": "ownlab/__init__.py", "ownlab.parts": "ownlab/parts/__init__.py", "ownlab.rules": "ownlab/rules.py",
        "ownlab.parts.late": "ownlab/parts/late.py", "ownlab_other.numbers": "ownlab_other/numbers.py",
        "ownlab_single": "ownlab_single.py",
    }  # fmt: skip


def test_a_signature_changes_with_the_code_that_takes_part_and_with_no_other(lab: Path) -> None:
    first = run_signature(TARGET, "data")
    (lab / "ownlab" / "unused.py").write_text("x = 1\n")
    assert run_signature(TARGET, "data") == first
    for name in ("ownlab/rules.py", "ownlab_single.py", "ownlab/__init__.py"):
        path = lab / name
        before = path.read_text()
        path.write_text(before + "changed = True\n")
        assert run_signature(TARGET, "data") != first, name
        path.write_text(before)
    assert run_signature(TARGET, "data") == first
    without = {"callbacks": {"best": {"_target_": "pytorch_lightning.callbacks.ModelCheckpoint"}}}
    assert user_modules(without) == {}


@pytest.mark.slow
def test_a_run_of_other_user_code_is_not_reused_and_the_code_is_recorded(
    store: Any, train: Callable[..., Any], lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("+callbacks.mine._target_=ownlab.parts.Late", "trainer.max_epochs=1", "tracking.pictures=false")
    key = "AKIA" + "Z7QX2M4NP8RW5TKD"
    (lab / "ownlab" / "rules.py").write_text(f"bound = 2\nkey = '{key}'\n")
    (lab / ".env").write_text("PASSWORD=hunter2\n")
    first = train(*words)
    warning = capsys.readouterr().err
    assert "code/1-lab.patch of this run has lines that look like secrets: ownlab/rules.py:2" in warning
    with pytest.raises(CachedRun, match=first.info.run_id):
        run(compose_run([*QUICK, *words]), skip_cached=True)
    (lab / "ownlab" / "rules.py").write_text("bound = 3\n")
    run(compose_run([*QUICK, *words]), skip_cached=True)
    recorded = json.loads(artifact_path(store, first, "code/modules.json").read_text())
    assert set(recorded["modules"]) == set(user_modules(TARGET))
    (repository,) = recorded["repositories"].items()
    assert repository[0] == str(lab)
    assert (repository[1]["commit"], repository[1]["dirty"]) == (git(lab, "rev-parse", "HEAD"), True)
    _print_user_code_changes(store, first, user_modules(TARGET))
    assert "your own code differs from the record; the current code is used: ownlab.rules;" in capsys.readouterr().out
    patch = artifact_path(store, first, repository[1]["diff"]).read_text()
    assert "+bound = 2" in patch and "hunter2" not in patch
