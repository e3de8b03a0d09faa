"""What it takes to load a table of a million rows and a hundred columns, against pandas reading it."""

import functools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.large_data import resident
from benchmarks.measure import Row, interleaved, quotients, table

ROWS, COLUMNS, COPIES = 1_000_000, 100, 10
BAR = 2


def run(repeats: int) -> None:
    """CPU time and peak memory from the file to a datamodule with its split, scaling and fingerprint."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for path in _write(Path(folder)):
            measures = {
                "pandas": functools.partial(pd.read_csv if path.suffix == ".csv" else pd.read_parquet, path),
                "standardise": functools.partial(_load, path),
                "missing=median": functools.partial(_load, path, missing="median"),
            }
            found = interleaved(
                {name: functools.partial(_in_new_process, load) for name, load in measures.items()}, repeats
            )
            pandas = found.pop("pandas")
            for name, measured in found.items():
                for i, unit in enumerate(("CPU s", "peak MB")):
                    ours, theirs = ([turn[i] for turn in turns] for turns in (measured, pandas))
                    note = f"{statistics.median(ours):.1f} / {statistics.median(theirs):.1f}"
                    rows.append(Row(f"{path.suffix[1:]}, {name}, {unit}", quotients(ours, theirs), BAR, note=note))
    table(f"tables ({ROWS:,} x {COLUMNS} float64 and a target, loaded with fingerprint / read by pandas)", rows)


def _write(folder: Path) -> list[Path]:
    """Write the table in both formats: random values, repeated, as text takes minutes to write."""
    source = np.random.default_rng(0)
    values = source.normal(size=(ROWS // COPIES, COLUMNS)).round(4)
    part = pd.DataFrame(values, columns=[f"f{i}" for i in range(COLUMNS)])
    part["y"] = np.where(source.random(len(part)) < 0.3, "a", "b")
    text, binary = folder / "table.csv", folder / "table.parquet"
    part.to_csv(text, index=False)
    body = text.read_bytes().partition(b"\n")[2]
    with text.open("ab") as opened:
        opened.writelines([body] * (COPIES - 1))
    pd.concat([part] * COPIES, ignore_index=True).to_parquet(binary, index=False)
    return [text, binary]


def _load(path: Path, **settings: Any) -> Any:
    from lightning_modules.data.tabular import Tabular

    data = Tabular(name=None, path=path, target="y", **settings)
    data.fingerprint()
    return data


def _in_new_process(load: Callable[[], Any]) -> tuple[float, float]:
    """Measure in a process of its own: what Arrow and pandas have allocated once they do not give back."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, load).result()


def _measure(load: Callable[[], Any]) -> tuple[float, float]:
    """Return the CPU seconds, and the resident MB at most beyond those before; libraries are imported before."""
    import pyarrow.parquet  # noqa: F401

    import lightning_modules.data.tabular
    import lightning_modules.zoo.data.table_preparation  # noqa: F401

    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before, start = resident("VmRSS"), time.process_time()
    load()
    return time.process_time() - start, resident("VmHWM") - before
