"""The notebooks of examples/ run from top to bottom in a fresh process, and hold no outputs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "examples").glob("*.ipynb"))


def code_cells(path: Path) -> list[dict[str, object]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_outputs(path: Path) -> None:
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code_cells(path))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, store: object, tmp_path: Path) -> None:
    cells = ["".join(cell["source"]) for cell in code_cells(path)]
    (tmp_path / "cells.json").write_text(json.dumps(cells))
    each = "for cell in json.load(open('cells.json')): exec(compile(cell, 'cell', 'exec'), scope)"
    code = f"import json; scope = {{'__name__': '__main__'}}\n{each}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "predicted [" in done.stdout
