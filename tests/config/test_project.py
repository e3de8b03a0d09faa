"""Where configs, runs and trusted packages come from: the environment and the project around the working directory."""

import os
import sys
from pathlib import Path

import pytest

from lightning_modules.config import project
from lightning_modules.config.command_line import compose_run, config_dirs, is_group, options_of, override_mistakes
from lightning_modules.config.errors import UserError
from lightning_modules.config.trust import is_component, refuse_untrusted, trust_packages
from lightning_modules.tracking.store import open_store


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a task and a package that it trusts; nothing of the environment says where it is."""
    for name in ("TOUCHSTONE_HOME", "TOUCHSTONE_TRUST", "TOUCHSTONE_CONFIG_DIRS", "MLFLOW_TRACKING_URI", "PYTHONPATH"):
        monkeypatch.setenv(name, "")  # so that what `enter_project` sets is undone
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    folder = tmp_path / "lab"
    (folder / "conf" / "task").mkdir(parents=True)
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "conf" / "task" / "mine.yaml").write_text("_target_: labcode.Task\nmonitor: {metric: null, mode: null}\n")
    (folder / "pyproject.toml").write_text("[tool.touchstone]\ntrust = ['labcode']\n")
    (folder / "labcode.py").write_text(
        "import pytorch_lightning as pl\nclass Task(pl.LightningModule): pass\ndef f(): pass\n"
    )
    monkeypatch.chdir(folder / "deep" / "er")
    return folder


def test_the_store_is_where_the_first_of_these_says(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert project.runs_folder() == lab / "mlruns"  # the nearest parent that is a project
    monkeypatch.setenv("TOUCHSTONE_HOME", str(tmp_path / "home"))
    assert open_store().uri.endswith(f"{tmp_path}/home/mlruns/mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/b.db")
    assert open_store().uri.endswith("/b.db")
    assert open_store(f"sqlite:///{tmp_path}/a.db").uri.endswith("/a.db")


def test_outside_of_a_project_it_is_the_checkout_or_else_the_working_directory(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert project.home() == project.CHECKOUT
    monkeypatch.setattr(project, "CHECKOUT", None)
    assert project.home() == project.code_folder() == tmp_path


def test_another_checkout_of_ours_is_not_the_project_of_this_one(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = lab.rename(tmp_path / "clone")
    (other / "lightning_modules").mkdir()
    monkeypatch.chdir(other)
    assert project.home() == project.CHECKOUT and project.config_roots() == [project.CONF]


def test_entering_fixes_the_project_for_processes_that_run_elsewhere(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.enter_project()
    monkeypatch.chdir(tmp_path)
    assert project.runs_folder() == lab / "mlruns"
    assert project.config_roots() == [lab / "conf", project.CONF]
    assert str(lab) in os.environ["PYTHONPATH"].split(os.pathsep) and sys.path[0] == str(lab)
    assert os.environ["TOUCHSTONE_TRUST"] == "labcode"


def test_the_environment_is_asked_before_the_project_for_trusted_packages(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "")
    project.enter_project()
    assert os.environ["TOUCHSTONE_TRUST"] == ""


@pytest.mark.parametrize("given", ["[3]", "'a b'", "{a = 1}", "['../x']"])
def test_names_of_trusted_packages_are_checked(lab: Path, given: str) -> None:
    (lab / "pyproject.toml").write_text(f"[tool.touchstone]\ntrust = {given}\n")
    with pytest.raises(UserError, match=r"pyproject\.toml: tool\.touchstone\.trust: expected a list of packages"):
        project.enter_project()


def test_options_come_from_all_roots(lab: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "task").mkdir(parents=True)
    (other / "task" / "theirs.yaml").write_text("_target_: labcode.Task\n")
    project.enter_project()
    project.add_config_roots(
        config_dirs(["task=mine", "--config-dir", str(other), f"hydra.searchpath=[file://{other}]"])
    )
    assert {"mine", "theirs", "classification"} <= options_of("task")
    assert is_group("task") and not is_group("tasks")
    assert compose_run(["task=mine", "data=tabular", "callbacks=last"]).task._target_ == "labcode.Task"
    assert "did you mean 'theirs'" in override_mistakes(["task=their"], "train")[0]


def test_an_option_of_the_project_is_taken_before_ours(lab: Path) -> None:
    (lab / "conf" / "model").mkdir()
    (lab / "conf" / "model" / "mlp.yaml").write_text("_target_: torch.nn.Identity\n")
    assert compose_run(["model=mlp"]).model._target_ == "torch.nn.Identity"


def test_a_folder_of_configs_that_does_not_exist_is_a_mistake(lab: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder of configs"):
        project.add_config_roots(["nowhere"])


def test_the_user_trusts_packages_by_config_and_a_recorded_config_cannot(lab: Path) -> None:
    from hydra.utils import get_object

    sys.path.insert(0, str(lab))
    recorded = compose_run(["trust=[labcode]", "task=mine", "data=tabular", "callbacks=last"])
    assert "trust" not in recorded and "TOUCHSTONE_TRUST" not in os.environ
    recorded = {"trust": ["labcode"], "task": {"_target_": "labcode.f"}}
    from omegaconf import OmegaConf

    with pytest.raises(UserError, match="TOUCHSTONE_TRUST=mypackage"):
        refuse_untrusted(OmegaConf.create(recorded), "a record")
    trust_packages(OmegaConf.create({"trust": ["labcode"]}))
    refuse_untrusted(OmegaConf.create(recorded), "a record")
    assert is_component(get_object("labcode.f"))
    with pytest.raises(UserError, match="trust: expected a list of packages"):
        trust_packages(OmegaConf.create({"trust": [1]}))
