import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_modules.config.errors import UserError
from lightning_modules.tracking.rerun import print_code_changes, recorded_code, rerun

ROOT = Path(__file__).parents[2]


def test_code_whose_only_changes_were_left_out_of_the_diff_is_checked_out_and_they_are_named(
    store: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    tags = {"mlflow.source.git.commit": head, "git.dirty": "true", "git.note": "left out of the diff: big.bin"}
    run: Any = SimpleNamespace(
        info=SimpleNamespace(run_id="r", artifact_uri=tmp_path.as_uri()), data=SimpleNamespace(tags=tags)
    )
    with recorded_code(store, run) as folder:
        assert (folder / "lightning_modules" / "recorded.py").is_file()
    assert "left out of the diff: big.bin" in capsys.readouterr().out
    assert not folder.exists()


def test_a_recorded_commit_is_no_option_of_git(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tags = {"mlflow.source.git.commit": f"--output={tmp_path}/written"}
    print_code_changes(SimpleNamespace(data=SimpleNamespace(tags=tags)))
    assert "the commit is unknown" in capsys.readouterr().out and not list(tmp_path.iterdir())


FILES = {
    "one/src/labone/__init__.py": "",
    "one/src/labone/task.py": "import labtwo.scales\nfrom user_modules import GAN\n\nclass Task(GAN):\n"
    "    def configure_optimizers(self):\n        return [self.scaled(each) for each in super().configure_optimizers()]\n\n"
    "    def scaled(self, optimizer):\n        optimizer.param_groups[0]['lr'] = labtwo.scales.lr * 2\n"
    "        return optimizer\n",
    "two/labtwo/scales.py": "lr = 0.1\n",
}


def git(folder: Path, *words: str) -> None:
    command = ["git", "-c", "user.name=Ann", "-c", "user.email=ann@example.org", *words]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.mark.slow
def test_each_repository_is_checked_out_as_it_was(
    store: Any, train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for name, folder in (("one", "src"), ("two", "")):
        git(tmp_path / name, "init", "-q")
        git(tmp_path / name, "add", ".")
        git(tmp_path / name, "commit", "-qm", "first")
        monkeypatch.syspath_prepend(str(tmp_path / name / folder))
    paths = [str(tmp_path / "one/src"), str(tmp_path / "two"), str(ROOT / "tests")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("TOUCHSTONE_TRUST", "labone,user_modules")
    scales = tmp_path / "two/labtwo/scales.py"
    scales.write_text("lr = 0.3\n")  # recorded as a diff
    words = ("task=lightning_module", "task._target_=labone.task.Task", "data=lightning_datamodule")
    quiet = (
        "tracking.system_metrics_s=null",
        "tracking.pictures=false",
        "callbacks.progress=null",
        "callbacks.summary=null",
    )
    run = train(*words, "data._target_=user_modules.Points", *quiet, "trainer.max_epochs=1", quick=False)
    task = tmp_path / "one/src/labone/task.py"
    task.write_text(task.read_text().replace("* 2", "* 5"))
    git(tmp_path / "one", "commit", "-qam", "second")
    scales.write_text("lr = 0.7\n")
    rerun(run.info.run_id)
    shown = capfd.readouterr().out
    assert "all metrics are equal" in shown and "warning: your own code" not in shown
    shutil.rmtree(tmp_path / "two/.git")
    with pytest.raises(UserError, match=r"the recorded code of labtwo.scales is not available"):
        rerun(run.info.run_id)
