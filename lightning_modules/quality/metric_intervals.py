"""Bootstrap intervals of a run's test metrics, from its predictions per sample."""

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from lightning_modules.config.plain import PlainDict
from lightning_modules.report.statistics import CONFIDENCE
from lightning_modules.report.tables import markdown_table
from lightning_modules.task.classification import Classification
from lightning_modules.task.regression import Regression


def write_intervals(
    folder: Path, table: pd.DataFrame, logged: PlainDict, resamples: int, seed: int, task: object = None
) -> None:
    """Write ``intervals.json`` and ``intervals.md``, and print them; see `bootstrap`."""
    method = f"{CONFIDENCE:.0%} percentile bootstrap over {len(table)} test samples, {resamples} resamples, seed {seed}"
    found = {
        name: {"value": float(logged[name]), "low": low, "high": high}
        for name, (low, high) in sorted(bootstrap(table, logged, resamples, seed, task).items())
    }
    (folder / "intervals.json").write_text(json.dumps({"method": method, "metrics": found}, indent=1) + "\n")
    rows = [(name, f"{ends['low']:.4f} to {ends['high']:.4f}") for name, ends in found.items()]
    if rows:
        print("\n".join([*("  ".join(row) for row in rows), method]), flush=True)
        text = f"{markdown_table(['metric', 'interval'], rows)}\n\n{method}; it does not cover other seeds.\n\n"
        (folder / "intervals.md").write_text(text, encoding="utf-8")


def bootstrap(
    table: pd.DataFrame, logged: PlainDict, resamples: int, seed: int, task: Any = None
) -> dict[str, tuple[float, float]]:
    """The percentile interval of each logged metric that is a mean over samples: loss, accuracy, mse, mae.

    With a `task`, also of its other metrics that are one value, each computed on the predictions of its last test that
    belong to a resample. Resamples on which a metric is not defined are left out.
    """
    means, draws = _means(table, logged), np.random.default_rng(seed)
    found: dict[str, list[float]] = defaultdict(list)
    metrics: Any = task.build_metrics("test").to(task.device) if isinstance(task, Classification | Regression) else None
    scores, y, *_ = task.test_buffer if metrics is not None else (torch.empty(0), torch.empty(0))
    for _ in range(resamples):
        draw = draws.integers(len(table), size=len(table))
        for name, values in means.items():
            found[name].append(float(values[draw].mean()))
        if metrics is not None:
            of = torch.from_numpy(draw).to(y.device)
            for name, value in metrics(scores[of], task.metric_target(y[of])).items():
                if not value.ndim and f"test/{name}" in logged.keys() - means.keys():
                    found[f"test/{name}"].append(float(value))
            metrics.reset()
    quantiles = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    ends = {name: np.nanquantile(values, quantiles).tolist() for name, values in found.items()}
    return {name: (low, high) for name, (low, high) in ends.items()}


def _means(table: pd.DataFrame, logged: PlainDict) -> dict[str, np.ndarray]:
    """The values whose mean is the logged metric: it is another one with class weights, or by other rules."""
    columns = {"test/loss": table["loss"]}
    if "target" in table and pd.api.types.is_integer_dtype(table["target"]):
        columns["test/accuracy"] = table["target"] == table["prediction"]
    elif "target" in table:
        error = table["target"] - table["prediction"]
        columns |= {"test/mse": error**2, "test/mae": error.abs()}
    values = {name: column.to_numpy(float) for name, column in columns.items()}
    measured = {name: float(logged.get(name, math.nan)) for name in values}
    return {name: v for name, v in values.items() if math.isclose(measured[name], v.mean(), rel_tol=1e-4, abs_tol=1e-6)}
