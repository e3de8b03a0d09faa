"""A run on images of a user's own, from its metrics to predictions for other files."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lightning_modules.run.predict import find_model, predict


@pytest.mark.slow
def test_classes_metrics_and_predictions_of_unusual_files(train: Any, store: Any, tmp_path: Path) -> None:
    for k, name in enumerate((b"C##", b"C++", b"'", b"`", b"caf\xe9")):
        folder = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"set", name))  # noqa: PTH118
        Path(folder).mkdir(parents=True)
        for i in range(5):
            Image.fromarray(np.full((4, 4, 3), 50 * k, np.uint8)).save(Path(folder) / f"{i}.png")
    words = ("data=image_folder", f"data.root={tmp_path / 'set'}", "data.image_size=4", "data.per_class=null")
    said = r"logged with their number: ''': _-0; 'C##': C__-1; 'C\+\+': C__-2; '`': _-3$"
    with pytest.warns(UserWarning, match=said):
        run = train(*words, "data.background=[100,100,100]", "trainer.max_epochs=1", "tracking.pictures=false")
    logged = {name.rpartition("/")[2] for name in run.data.metrics if "class_accuracy" in name}
    assert logged == {"_-0", "C__-1", "C__-2", "_-3", "caf_xe9"}

    task, wanted = find_model(store, run.info.run_id)
    new = tmp_path / "new"
    new.mkdir()
    Image.new("RGB", (4, 4), (100, 100, 100)).save(new / "0.png")
    Image.new("RGBA", (4, 4), (9, 9, 9, 0)).save(new / "1.png")
    Image.fromarray(np.full((4, 4), 100 * 257, np.uint16)).save(new / os.fsdecode(b"2\xe9.png"))
    (new / "3.png").write_bytes(b"damaged")
    (new / "list.txt").write_text("not an image")
    (new / "notes.md").write_text("")
    out = io.StringIO()
    with pytest.warns(UserWarning) as caught:
        assert predict(task, wanted, new, out) == 3
    heard = "\n".join(str(one.message) for one in caught)
    assert "skipped 1 of 6 files: 1 with suffix .md" in heard and "2 of 5 files were not predicted:" in heard
    assert "3.png cannot be read as an image" in heard and "list.txt contains texts" in heard
    rows = [line.split(",") for line in out.getvalue().encode().decode().splitlines()[1:]]
    assert [Path(row[0]).name for row in rows] == ["0.png", "1.png", r"2\xe9.png"]
    assert len({(row[2], row[3]) for row in rows}) == 1, "the same pixels, as they were read in training"
