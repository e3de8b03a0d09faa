"""The README's code blocks: every line is taken out and run, with tiny settings where it would take long.

Training commands are composed and checked as `train.py` does before the first step; those that need several machines, a
GPU or the network are composed only. The slow test runs the others, one after the other, in a copy of the project.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from claim_project import ROOT, Project
from hydra.core.override_parser.overrides_parser import OverridesParser

from lightning_modules.cli.main import VERBS
from lightning_modules.config.check import check_config
from lightning_modules.config.command_line import compose_run

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
OTHERS = ("make ", "source ", "pip install ", "MLFLOW_TRACKING_URI=")  # commands of other programs


def commands() -> list[str]:
    """All commands of the blocks that are shell, on one line each, without comments and prompts."""
    found = []
    for language, block in BLOCKS:
        prompts = any(line.startswith("$ ") for line in block.splitlines())
        for line in block.replace("\\\n", " ").splitlines():
            if language == "" and line.strip() and not line.startswith("#") and (line.startswith("$ ") or not prompts):
                found.append(" ".join(shlex.split(line.removeprefix("$ "), comments=True, posix=True)))
    return found


SHELL = commands()
TRAINING = [command for command in SHELL if "touchstone train" in command and "digitz" not in command]


def test_every_block_is_a_shell_or_a_yaml_block_and_every_command_is_known() -> None:
    assert {language for language, _ in BLOCKS} == {"", "yaml"}
    assert len(TRAINING) >= 20
    made = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    for command in SHELL:
        if command.startswith("make "):
            assert command.split()[1] in made
        if command.startswith("pip install "):
            assert set(command.partition("[")[2].rstrip("]").split(",")) <= extras
        script = re.search(r"scripts/\w+\.py", command)
        if verb := re.match(r"(?:MLFLOW_TRACKING_URI=\S+ )?touchstone (\w+)", command):
            assert verb[1] in VERBS, command
        else:
            assert command.startswith(OTHERS) if script is None else (ROOT / script[0]).is_file(), command


@pytest.mark.parametrize("command", TRAINING)
def test_a_training_command_is_composed_and_its_config_has_no_mistake(command: str) -> None:
    words = shlex.split(command.partition("touchstone train")[2])
    parsed = OverridesParser.create().parse_overrides([word for word in words if word != "-m"])
    chosen = []
    for override in parsed:
        word = str(override.input_line)
        if word.startswith("sweep="):
            word = word.replace("sweep=", "sweep.name=")
        elif override.is_sweep_override():
            assert "-m" in words
            word = f"{override.key_or_group}={next(override.sweep_string_iterator())}"
        if not word.startswith("hydra"):  # launchers belong to packages that are optional
            chosen.append(word)
    check_config(compose_run(chosen))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_the_readme_shows_runs_in_a_copy_of_the_project(tmp_path: Path) -> None:
    """Real processes; each command is one of the README's, with what would make it long replaced."""
    project = Project(tmp_path / "project")
    folder = project.folder
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    tiny = "trainer.max_epochs=1 data=digits model=linear tracking.system_metrics_s=null"

    def run(command: str, code: int = 0, **filled: str) -> str:
        """Run a command of the README; `filled` replaces placeholders and appends ``extra``."""
        assert command in SHELL, command
        extra = filled.pop("extra", "")
        for name, value in filled.items():
            command = command.replace(name, value)
        argv = shlex.split(f"{command} {extra}")
        ended = subprocess.run(
            [sys.executable, "-m", "lightning_modules.cli.main", *argv[1:]],
            cwd=folder,
            env=project.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == code, (command, ended.stdout[-2000:], ended.stderr[-2000:])
        return ended.stdout + ended.stderr

    (shown,) = (block for _, block in BLOCKS if "digitz" in block)
    said = run("touchstone train data=digitz optimizer.lrr=3", code=1)
    for line in shown.splitlines()[1:]:
        assert re.search(re.escape(line).replace("…", ".*").replace(r"\ (all:.*", r"\ \(all:.*"), said), line
    run(
        "touchstone train data=fashion_mnist model=lenet5 augmentation=image_basic",
        **{
            "data=fashion_mnist": "data=digits",
            "model=lenet5": "model=linear",
            "augmentation=image_basic": "name=first",
        },
        extra=tiny,
    )
    run("touchstone rerun RUN_ID", RUN_ID="first", extra="here=true")
    run("touchstone train resume=RUN_ID", RUN_ID="first", extra="trainer.max_epochs=2")
    run("touchstone train init_from=RUN_ID optimizer.lr=1e-4", RUN_ID="first", extra=tiny)
    sweep = next(command for command in SHELL if "sweep=rates" in command)
    run(sweep, **{"range(5)": "range(2)"}, extra=tiny)
    assert "optimizer.lr" in run("touchstone compare rates baseline=optimizer.lr=1e-3", **{"1e-3": "0.001"})
    run("touchstone store relocate")
    run("touchstone data inspect data=digits")
    run("touchstone augment out=more copies=4 data=digits augmentation=image_affine")
    (folder / "images").mkdir()
    _image(folder / "images" / "one.png")
    assert "one.png" in run("touchstone predict RUN_ID input=images/", RUN_ID="first")


def _image(path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(path)
