"""Runs as a sweep leaves them, written straight into a store."""

import functools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest


def add_run(
    store: Any, params: Mapping[str, Any], metrics: Mapping[str, float],
    *, name: str = "run", status: str = "FINISHED", experiment: str = "touchstone", **tags: str,
) -> str:  # fmt: skip
    """Write one run; return its id."""
    from mlflow.entities import Metric, Param

    client = store.client
    run_id: str = client.create_run(store.experiment(experiment), run_name=name, tags=tags).info.run_id
    client.log_batch(
        run_id,
        metrics=[Metric(key, value, 0, 0) for key, value in metrics.items()],
        params=[Param(key, str(value)) for key, value in params.items()],
    )
    if status != "RUNNING":
        client.set_terminated(run_id, status)
    return run_id


def add_sweep(store: Any, keys: Sequence[str], **tags: str) -> str:
    """A parent without children."""
    held = {"touchstone.kind": "sweep", "sweep.name": "s", "sweep.keys": json.dumps(list(keys)), **tags}
    return add_run(store, {}, {}, name="the sweep", **held)


@pytest.fixture
def add(store: Any) -> Callable[..., str]:
    """`add_run` in this test's store."""
    return functools.partial(add_run, store)


@pytest.fixture
def add_parent(store: Any) -> Callable[..., str]:
    """`add_sweep` in this test's store."""
    return functools.partial(add_sweep, store)


@pytest.fixture
def ask(store: Any) -> Callable[..., Any]:
    """Compare by both readers, which must agree in everything; return the comparison."""
    from lightning_modules.comparison.compare import compare, open_run_reader
    from lightning_modules.comparison.result import CompareRequest
    from lightning_modules.comparison.run_reader import MlflowRunReader

    def call(*targets: str, **options: Any) -> Any:
        request = CompareRequest(targets, **options)
        by_sql = compare(open_run_reader(), request)
        assert compare(MlflowRunReader(store), request) == by_sql
        return by_sql

    return call


@pytest.fixture
def sweep(store: Any) -> Callable[..., str]:
    """Make a sweep of two models and two learning rates over so many seeds; return its parent's id."""

    def make(seeds: int = 7) -> str:
        parent = add_sweep(store, ["model", "optimizer.lr", "seed"])
        noise = random.Random(0)
        for trial, (model, lr, seed) in enumerate(
            (model, lr, seed) for model in ("mlp", "convnet") for lr in (0.1, 0.001) for seed in range(seeds)
        ):
            swept = {"model": model, "optimizer.lr": lr, "seed": seed}
            params = {**swept, "model.width": {"mlp": 32, "convnet": 8}[model], "data.seed": seed, "data.fold": None}
            accuracy = 0.8 + 0.1 * (model == "convnet") + 0.03 * (lr == 0.001) + 0.01 * noise.random() + 0.002 * seed
            tags = {"mlflow.parentRunId": parent, "sweep.trial": str(trial), "sweep.params": json.dumps(swept)}
            values = {"test/accuracy": accuracy, "test/loss": 1 - accuracy, "val/accuracy": accuracy - 0.01}
            add_run(store, params, values, name=f"model={model} lr={lr} seed={seed}", **tags)
        return parent

    return make
