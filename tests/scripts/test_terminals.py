"""Terminals and files that cannot take every character: cluster logs, cron, containers."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ASCII = ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})


@pytest.mark.slow
@pytest.mark.parametrize("environment", ASCII, ids=["ascii", "locale C"])
def test_names_of_every_kind_are_trained_on_and_predicted(
    command: Any, tmp_path: Path, environment: dict[str, str]
) -> None:
    names = (b"caf\xe9", "naïve café".encode(), "猫".encode(), b"C++")
    for k, name in enumerate(names):
        folder = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"set", name))  # noqa: PTH118
        Path(folder).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(np.full((4, 4, 3), 50 * k, np.uint8)).save(Path(folder) / f"{i}.png")
    data = ("data=image_folder", f"data.root={tmp_path / 'set'}", "data.image_size=4")
    trained = command("train.py", *data, "model=linear", "trainer.max_epochs=1", "name=names", **environment)
    assert trained.returncode == 0 and "test/accuracy" in trained.stdout, trained.stderr
    predicted = command("predict.py", "names", f"input={tmp_path / 'set'}", **environment)
    assert predicted.returncode == 0, predicted.stderr
    assert predicted.stdout.isascii() and r"caf\xe9/0.png" in predicted.stdout
    assert len(predicted.stdout.splitlines()) == 25
    inspected = command("data.py", "inspect", *data, **environment)
    assert inspected.returncode == 0, inspected.stderr
