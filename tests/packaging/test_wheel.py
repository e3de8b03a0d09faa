"""The wheel in an environment without this checkout: a new project is made, trained, swept, resumed and rerun."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("trainer.max_epochs=2", "tracking.system_metrics_s=null", "tracking.pictures=false")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def outside() -> dict[str, str]:
    ours = ("PYTHONPATH", "TOUCHSTONE_", "MLFLOW_TRACKING_URI", "PYTEST", "MAKE")
    return {key: value for key, value in os.environ.items() if not key.startswith(ours)}


def call(*words: object, cwd: Path, code: int = 0, **more: str) -> str:
    """What a command prints, in an environment that names nothing of this checkout."""
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env={**outside(), **more}, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean environment with the wheel; the dependencies are those of the running one, without its editable finder."""
    folder = tmp_path_factory.mktemp("wheel")
    source, wheels, venv = folder / "source", folder / "wheels", folder / "venv"
    call("git", "clone", "--quiet", "--no-local", ROOT, source, cwd=folder)
    for name in call("git", "ls-files", "--modified", "--others", "--exclude-standard", cwd=ROOT).splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    call(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, source, cwd=folder)
    call(sys.executable, "-m", "venv", "--without-pip", venv, cwd=folder)
    (packages,) = (venv / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    python = venv / "bin" / "python"
    (wheel,) = wheels.glob("*.whl")
    call(pip[0], "-m", "pip", "--python", python, "install", "--no-deps", "--ignore-installed", wheel, cwd=folder)
    where = call(python, "-c", "import lightning_modules; print(lightning_modules.__file__)", cwd=folder)
    assert Path(where.strip()).is_relative_to(packages)
    return venv


@pytest.fixture(scope="module")
def project(venv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("projects")
    call(venv / "bin" / "touchstone", "new", "vision-lab", cwd=folder)
    project = folder / "vision-lab"
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b")
    call("git", "init", "--quiet", cwd=project)
    call("git", "add", "-A", cwd=project)
    call(*git, "commit", "--quiet", "-m", "new", cwd=project)
    return project


def newest_run(project: Path) -> str:
    import sqlite3

    with sqlite3.connect(project / "mlruns" / "mlflow.db") as database:
        query = "SELECT run_uuid FROM runs ORDER BY start_time DESC LIMIT 1"
        return str(database.execute(query).fetchone()[0])


def test_a_new_project_trains_and_tests(project: Path, venv: Path) -> None:
    said = call("make", "train", f"VENV={venv}", cwd=project)
    assert f"store: sqlite:///{project}/mlruns/mlflow.db" in said and "test_accuracy" in said
    assert "warning" not in said
    call("make", "test", f"VENV={venv}", cwd=project)
    assert not list(venv.rglob("mlruns"))


def test_a_run_of_a_new_project_is_swept_resumed_and_rerun(project: Path, venv: Path) -> None:
    touchstone, mine = venv / "bin" / "touchstone", ("task=mine", "data=mine", *QUICK)
    package = project / "vision_lab"
    said = call(touchstone, "train", "-m", *mine, "task.lr=0.03,0.3", cwd=package)  # a folder in the project
    assert "0.03" in said and "0.3" in said
    call(touchstone, "train", *mine, cwd=project)
    run = newest_run(project)
    assert "all metrics are equal" in call(touchstone, "rerun", run, cwd=project)
    call(touchstone, "train", f"resume={run}", "trainer.max_epochs=3", *QUICK[1:], cwd=package)


def test_options_of_project_and_package_are_listed_together(project: Path, venv: Path) -> None:
    touchstone = venv / "bin" / "touchstone"
    said = call(touchstone, "train", "--help", cwd=project)
    (tasks,) = re.findall(r"^  task: (.+(?:\n    .+)*)", said, re.MULTILINE)
    assert {"mine", "classification"} <= set(re.split(r",\s+", tasks))
    assert "did you mean 'mine'" in call(touchstone, "train", "task=mien", cwd=project, code=1)


def test_our_own_experiments_run_from_any_folder(venv: Path, tmp_path: Path) -> None:
    words = ("experiment=sonar1988/hidden12", "--cfg", "job")
    said = call(venv / "bin" / "touchstone", "train", *words, cwd=tmp_path)
    assert "_target_" in said and not list(venv.rglob("mlflow.db"))


def test_the_installed_package_is_used_from_python_outside_of_a_project(venv: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import mlflow\n"
        "from lightning_modules import compose, load, recorded, run, runs\n"
        f"result = run(compose({['model=mlp', 'data.per_class=20', *QUICK]}))\n"
        "assert load(result.run_id) is not None\n"
        "with recorded(config={'lr': 1}) as loop:\n"
        "    mlflow.log_metric('loss', 1)\n"
        "assert set(runs().run_id) == {result.run_id, loop.run_id}\n"
    )
    call(venv / "bin" / "python", "program.py", cwd=tmp_path)
    assert (tmp_path / "mlruns" / "mlflow.db").is_file()
