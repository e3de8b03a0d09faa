import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_modules.tracking.rerun import recorded_code

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
