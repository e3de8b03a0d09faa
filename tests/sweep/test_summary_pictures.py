"""The pictures of a sweep: axes, importance, and that all of them can be drawn."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.entities import Metric

from lightning_modules.sweep.axis import axis, measure
from lightning_modules.sweep.children import Child, read_children
from lightning_modules.sweep.names import run_name
from lightning_modules.sweep.parallel import parallel_coordinates
from lightning_modules.sweep.pictures import importance, importances, pareto_front
from lightning_modules.sweep.summary import write_summary

LOSS = {"val/loss": "minimize"}
BOTH = {"val/accuracy": "maximize", "model/size_bytes": "minimize"}
RESUME = "python scripts/train.py -m sweep.resume=tuning"


class Sweep:
    """The run of a sweep and its children, written as a sweep leaves them in the store."""

    def __init__(self, store: Any, keys: list[str], objectives: Mapping[str, str]) -> None:
        self.store, self.keys, self.client = store, keys, store.client
        self.experiment = store.experiment("swept")
        tags = {"touchstone.kind": "sweep", "sweep.name": "tuning", "sweep.keys": json.dumps(keys)}
        tags["sweep.objectives"] = json.dumps(dict(objectives))
        self.run_id = self.client.create_run(self.experiment, run_name="tuning", tags=tags).info.run_id

    def child(
        self,
        number: int,
        params: dict[str, Any],
        metrics: Mapping[str, list[float] | float],
        status: str = "FINISHED",
        experiment: str | None = None,
        **tags: str,
    ) -> str:
        found = {"mlflow.parentRunId": self.run_id, "sweep.trial": str(number), "sweep.params": json.dumps(params)}
        name = run_name(params, self.keys)
        run_id = self.client.create_run(
            experiment or self.experiment, run_name=name, tags=found | {k.replace("_", "."): v for k, v in tags.items()}
        ).info.run_id
        self.log(run_id, metrics)
        if status != "RUNNING":
            self.client.set_terminated(run_id, status)
        return str(run_id)

    def log(self, run_id: str, metrics: Mapping[str, list[float] | float]) -> None:
        points = [
            Metric(name, value, 1000 + step, step)
            for name, values in metrics.items()
            for step, value in enumerate(values if isinstance(values, list) else [values])
        ]
        self.client.log_batch(run_id, metrics=points)

    def children(self) -> list[Child]:
        return read_children(self.store, self.run_id)

    def tags(self) -> dict[str, str]:
        return dict(self.client.get_run(self.run_id).data.tags)

    def summarise(self, objectives: Mapping[str, str] = LOSS, final: bool = True) -> Path:
        write_summary(self.store, self.run_id, objectives, RESUME, final=final)
        uri = self.client.get_run(self.run_id).info.artifact_uri
        return Path(uri.removeprefix("file://").replace("%20", " ")) / "sweep"


@pytest.fixture
def sweep(store: Any) -> Sweep:
    return Sweep(store, ["optimizer.lr", "seed"], LOSS)


def made_up(number: int, params: dict[str, Any], status: str = "FINISHED", **values: float | None) -> Child:
    named = {name.replace("__", "/"): value for name, value in values.items()}
    return Child(number, f"{number:032x}", run_name(params, list(params)), params, status, named, {}, 60.0)


def grid_of(count: int) -> list[Child]:
    """Finished children whose loss depends on lr, a little on width, and on the seed not at all."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        params = {
            "optimizer.lr": float(10 ** rng.uniform(-4, 0)),
            "model.width": int(rng.integers(8, 200)),
            "seed": number % 3,
        }
        loss = (math.log10(params["optimizer.lr"]) + 2) ** 2 + 5 / params["model.width"]
        found.append(made_up(number, params, val__loss=loss))
    return found


# --- names -----------------------------------------------------------------------------------------------------
def test_numbers_that_spread_over_decades_get_a_logarithmic_axis() -> None:
    grid = axis([1e-4, 1e-3, 1e-2])
    assert np.allclose(grid.places, [0, 0.5, 1])
    assert [label for _, label in grid.ticks] == ["1e-4", "1e-3", "0.01"]
    assert np.allclose(axis([0, 1, 2, 4]).places, [0, 0.25, 0.5, 1])


def test_numbers_that_would_crowd_and_words_are_levels_and_a_value_that_is_not_there_is_a_gap() -> None:
    crowded = axis([0.0, 1e-5, 1e-4, 1.0])
    assert np.allclose(crowded.places, [0, 1 / 3, 2 / 3, 1])
    words = axis(["b", None, "a", True])
    assert np.allclose(words.places, [1 / 2, np.nan, 0, 1], equal_nan=True)
    assert [label for _, label in words.ticks] == ["a", "b", "true"]


def test_a_run_that_diverged_does_not_squeeze_the_others() -> None:
    losses: list[float | None] = [0.1, 0.11, 0.12, 0.13, 0.14, 0.15, 0.16, 900.0]
    side = measure(losses, 0, "minimize")
    assert side.places[6] > 0.4
    assert side.places[7] == 1
    assert side.ticks[-1][1].startswith("≥")
    assert measure([1 - loss for loss in losses if loss], 0, "maximize").places[7] == 0


def test_importance_finds_what_matters_and_puts_the_seed_at_the_end() -> None:
    shares = importances(grid_of(40), "val/loss", "minimize")
    assert shares is not None
    assert next(iter(shares)) == "optimizer.lr"
    assert shares["optimizer.lr"] > 0.7
    assert shares == importances(grid_of(40), "val/loss", "minimize"), "the same each time"


@pytest.mark.parametrize(
    "tried",
    [
        [],
        grid_of(3),
        [made_up(i, {"seed": i, "lr": 1}, val__loss=float(i)) for i in range(9)],
        [made_up(i, {"seed": i, "lr": i % 2}, val__loss=1.0) for i in range(9)],
    ],
    ids=["none", "three", "one key", "all equal"],
)
def test_importance_is_not_guessed(tried: list[Child]) -> None:
    assert importance(tried, "val/loss", "minimize") is None


@pytest.mark.parametrize("count", [1, 2, 24])
def test_every_picture_can_be_drawn_of_few_and_of_many(count: int, tmp_path: Path) -> None:
    tried = [
        made_up(
            i, {"lr": 10.0 ** -(i % 4), "model": ["mlp", None][i % 2]}, val__accuracy=i / 30, model__size_bytes=2.0**i
        )
        for i in range(count)
    ]
    tried.append(made_up(count, {"lr": 0.5}, "PRUNED", val__accuracy=0.1, model__size_bytes=None))
    for number, figure in enumerate(
        (parallel_coordinates(tried, "val/accuracy", "maximize"), pareto_front(tried, BOTH))
    ):
        assert figure is not None
        figure.savefig(tmp_path / f"{number}.png")
    assert parallel_coordinates(tried[count:], "val/accuracy", "maximize") is None
    assert pareto_front(tried[count:], BOTH) is None
