"""`scripts/store.py`: one message for each mistake."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from lightning_modules.config.errors import UserError
from lightning_modules.store.relocate import relocate
from lightning_modules.tracking.store import Store

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("verb", ["relocate", "sync", "prune"])
def test_a_damaged_store_is_one_message(
    verb: str, tmp_path: Path, command: Callable[..., CompletedProcess[str]]
) -> None:
    (tmp_path / "mlflow.db").write_text("this is not a database " * 100)
    said = command("store.py", verb, f"tracking.uri=sqlite:///{tmp_path}/mlflow.db")
    assert said.returncode == 1
    assert said.stderr.strip().startswith("the tracking store") and "is damaged" in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("verb", ["relocate", "sync", "prune"])
def test_a_read_only_store_is_one_message(verb: str, store: Store) -> None:
    path = Path(store.uri.removeprefix("sqlite:///"))
    store.client._tracking_client.store.engine.dispose()
    for file in path.parent.glob("mlflow.db*"):
        file.chmod(0o444)
    path.parent.chmod(0o555)
    # root must not pass over file modes
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    said = subprocess.run(
        [*drop, sys.executable, str(ROOT / "scripts" / "store.py"), verb], capture_output=True, text=True, check=False
    )
    path.parent.chmod(0o755)
    assert said.returncode == 1, said.stdout
    assert "is not writable" in said.stderr and "Traceback" not in said.stderr


def test_a_server_is_not_relocated() -> None:
    with pytest.raises(UserError, match=r"relocate repairs a SQLite store; 127\.0\.0\.1:9 is a server"):
        relocate(Store("http://ann:secret@127.0.0.1:9"))


def test_a_server_that_does_not_answer_is_one_message(command: Callable[..., CompletedProcess[str]]) -> None:
    said = command("store.py", "prune", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert said.returncode == 1 and "is not responding" in said.stderr and "Traceback" not in said.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, runpy; sys.argv = ['store.py', '--help']\n"
        "try: runpy.run_path('scripts/store.py', run_name='__main__')\n"
        "finally: print({'torch', 'mlflow', 'sqlalchemy'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert "relocate" in said.stdout and said.stdout.strip().endswith("set()"), said.stderr
