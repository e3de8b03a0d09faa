"""A sweep of 10,000 runs with 50 metrics each, compared as a whole, and read as MLflow's search reads it."""

import functools
import json
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, interleaved, quotients, table

MODELS, RATES, DECAYS, SEEDS = 10, 10, 10, 10  # 1,000 groups of 10 seeds
METRICS, SETTINGS = 50, 30
PARENT = "f" * 32
BASELINE = "model=m0,optimizer.lr=0.0,optimizer.weight_decay=0.0"


def run(repeats: int) -> None:
    """CPU seconds of the comparison (reading, grouping, statistics; its imports apart), and of the reading alone."""
    from lightning_modules.comparison.compare import compare, open_run_reader
    from lightning_modules.comparison.result import CompareRequest
    from lightning_modules.comparison.run_reader import MlflowRunReader
    from lightning_modules.tracking.store import open_store

    store = open_store()
    fill(store.path, store.experiment("many"))
    plain, tested = CompareRequest([PARENT]), CompareRequest([PARENT], baseline=BASELINE)
    measures: dict[str, Callable[[], Any]] = {
        "whole": lambda: compare(open_run_reader(), plain),
        "whole, against a baseline": lambda: compare(open_run_reader(), tested),
        "whole experiment": lambda: compare(open_run_reader(), CompareRequest(["many"])),
        "ours": lambda: read(open_run_reader()),
        "search_runs": lambda: read(MlflowRunReader(store)),
    }
    times = interleaved({name: functools.partial(cpu, measure) for name, measure in measures.items()}, repeats)
    search = times.pop("search_runs")
    rows = [Row(f"{name}: CPU seconds", seconds, 2) for name, seconds in times.items() if name != "ours"]
    note = f"{statistics.median(search):.1f} s / {statistics.median(times['ours']):.2f} s"
    rows += [
        Row("reading by search_runs / reading by SQL", quotients(search, times["ours"]), 20, above=True, note=note)
    ]
    rows += [Row("reading by search_runs / whole", quotients(search, times["whole"]), None)]
    table(f"compare ({MODELS * RATES * DECAYS * SEEDS:,} runs, {METRICS} metrics and {SETTINGS + 4} params each)", rows)


def cpu(measure: Callable[[], Any]) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    measure()
    return time.process_time() - start


def read(reader: Any) -> int:
    """Read what a comparison needs: the children, their swept params and one metric."""
    ids = [run.run_id for run in reader.runs(parent=PARENT)]
    params = reader.params(ids, ["model", "optimizer.lr", "optimizer.weight_decay", "seed"])
    assert len(params) == len(reader.metric(ids, "test/accuracy")) == MODELS * RATES * DECAYS * SEEDS
    return len(params)


def fill(path: Path, experiment: str) -> None:
    """Put the sweep into MLflow's own schema, in bulk."""
    with sqlite3.connect(path) as database:
        columns = (
            "run_uuid, name, start_time, experiment_id, status, lifecycle_stage, source_type, user_id, artifact_uri"
        )
        rest = "'FINISHED', 'active', 'LOCAL', 'me', '/nowhere'"
        heads = [(PARENT, "many", 0, experiment), *((run_id, f"run {i}", i, experiment) for i, run_id, _ in trials())]
        database.executemany(f"INSERT INTO runs ({columns}) VALUES (?, ?, ?, ?, {rest})", heads)
        database.executemany("INSERT INTO tags (run_uuid, key, value) VALUES (?, ?, ?)", tags())
        database.executemany("INSERT INTO params (run_uuid, key, value) VALUES (?, ?, ?)", params())
        latest = "INSERT INTO latest_metrics (run_uuid, key, value, timestamp, step, is_nan) VALUES (?, ?, ?, 0, 1, 0)"
        database.executemany(latest, values())
    database.close()


def trials() -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Number, id and swept values of each run."""
    for i in range(MODELS * RATES * DECAYS * SEEDS):
        rest, seed = divmod(i, SEEDS)
        rest, decay = divmod(rest, DECAYS)
        model, rate = divmod(rest, RATES)
        swept = {"model": f"m{model}", "optimizer.lr": rate / 10, "optimizer.weight_decay": decay / 10, "seed": seed}
        yield i, f"{i * 2654435761 % 2**128:032x}", swept


def tags() -> Iterator[tuple[str, str, str]]:
    keys = ["model", "optimizer.lr", "optimizer.weight_decay", "seed"]
    yield from (
        (PARENT, key, value) for key, value in {"touchstone.kind": "sweep", "sweep.keys": json.dumps(keys)}.items()
    )
    for i, run_id, swept in trials():
        held = {"mlflow.parentRunId": PARENT, "sweep.trial": str(i), "sweep.params": json.dumps(swept)}
        held |= {f"touchstone.note{j}": "some words" for j in range(7)}
        yield from ((run_id, key, value) for key, value in held.items())


def params() -> Iterator[tuple[str, str, str]]:
    for _, run_id, swept in trials():
        held = {**swept, **{f"trainer.setting{j}": "a value" for j in range(SETTINGS)}}
        yield from ((run_id, key, str(value)) for key, value in held.items())


def values() -> Iterator[tuple[str, str, float]]:
    names = ["test/accuracy", *(f"val/class_accuracy/{j}" for j in range(METRICS - 1))]
    for i, run_id, swept in trials():
        for j, name in enumerate(names):
            yield run_id, name, 0.5 + 0.04 * swept["optimizer.lr"] + (i * 7919 + j) % 1013 / 10_000
