"""Help by subject, completion in a real bash, and the suggestions for a word that stands elsewhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.cli.completion import complete
from lightning_modules.cli.main import overview
from lightning_modules.cli.train import main as train_main
from lightning_modules.config.command_line import override_mistakes
from lightning_modules.tracking.tags import STUDY_TAG


def test_help_is_by_subject_fits_a_terminal_and_explains_the_keys_at_the_top(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "--help"])
    train_main()
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith(" ") and line[1] != " "] == [
        " what is learned", " how it is trained", " what is recorded", " sweeps (-m)",
    ]  # fmt: skip
    assert max(map(len, lines)) <= 80
    keys = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]
    assert {"seed=0", "name=null", "sweep.jobs=null", "resume.run=null", "compile=false", "init_from=null"} <= set(keys)
    assert any("weights, order, augmentation and dropout" in line for line in lines)
    assert 'eval "$(touchstone --completion)"' in "\n".join(lines) and "--completion" in overview()


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("touchstone train experiment=sonar1988/hidden1", "sonar1988/hidden12"),
        ("touchstone train resume=a-ru", "a-run-of-mine"),
        ("touchstone rerun with", "'with spaces'"),
        ("touchstone compare study=la", "large-batches"),
    ],
)
def test_bash_completes_verbs_options_experiments_and_runs(
    store: Any, tmp_path: Path, line: str, completed: str
) -> None:
    for name in ("a-run-of-mine", "with spaces"):
        store.client.create_run("0", run_name=name, tags={STUDY_TAG: "large-batches"})
    program = 'eval "$(touchstone --completion)"; COMP_LINE="$1"; COMP_POINT=${#1}; _touchstone; echo "${COMPREPLY[@]}"'
    bash = shutil.which("bash")
    assert bash
    command = tmp_path / "touchstone"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m lightning_modules.cli.main "$@"\n')
    command.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [bash, "-c", program, "bash", line],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": path},
    )
    assert done.stdout.strip() == completed, done.stderr


def test_verbs_groups_and_claims_are_completed() -> None:
    assert complete("touchstone re", ["train", "rerun", "reproduce"]) == ["rerun", "reproduce"]
    assert complete("touchstone train optimi", []) == ["optimizer="]
    assert complete("touchstone train optimizer=ada", []) == ["adadelta", "adagrad", "adam", "adamw"]
    assert complete("touchstone reproduce sonar1988/hidden1", []) == ["sonar1988/hidden12"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lr=0.1", "did you mean 'optimizer.lr'?"),
        ("max_epochs=3", "did you mean 'trainer.max_epochs'?"),
        ("model=resnet18", "use model=torchvision model.name=resnet18"),
        ("model=convnext_tiny", "use model=torchvision model.name=convnext_tiny"),
        ("model=vit_tiny_patch16_224", "use model=timm model.name=vit_tiny_patch16_224"),
        ("data=wine", "use data=tabular data.name=wine"),
        ("data=GunPoint", "use data=ucr data.name=GunPoint"),
        ("augmentation=crop_flip", "use augmentation=image_basic"),
        ("augmentation=CropFlip", "use augmentation=image_basic"),
    ],
)
def test_a_key_or_a_name_that_stands_elsewhere_is_suggested(word: str, message: str) -> None:
    (mistake,) = override_mistakes([word], "train")
    assert mistake.startswith(f"{word}: ") and message in mistake
    assert mistake.count("\n") == 0 and len(mistake) < 200
