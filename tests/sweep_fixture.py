"""The run of a sweep and its children, written by hand as a sweep leaves them in the store."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities import Metric

from lightning_modules.config.run_names import run_name
from lightning_modules.sweep.summary import write_summary
from lightning_modules.sweep.trial_results import TrialResult, read_trial_results

LOSS = {"val/loss": "minimize"}
BOTH = {"val/accuracy": "maximize", "model/size_bytes": "minimize"}
RESUME = "touchstone train -m sweep.resume=tuning"


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

    def children(self) -> list[TrialResult]:
        return read_trial_results(self.store, self.run_id)

    def tags(self) -> dict[str, str]:
        return dict(self.client.get_run(self.run_id).data.tags)

    def summarise(self, objectives: Mapping[str, str] = LOSS, final: bool = True) -> Path:
        write_summary(self.store, self.run_id, objectives, RESUME, final=final)
        uri = self.client.get_run(self.run_id).info.artifact_uri
        return Path(uri.removeprefix("file://").replace("%20", " ")) / "sweep"


def made_up(number: int, params: dict[str, Any], status: str = "FINISHED", **values: float | None) -> TrialResult:
    named = {name.replace("__", "/"): value for name, value in values.items()}
    return TrialResult(number, f"{number:032x}", run_name(params, list(params)), params, status, named, {}, 60.0)


def grid_of(count: int) -> list[TrialResult]:
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
