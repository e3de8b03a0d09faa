"""The MLflow UI view of an experiment: the columns that compare runs, newest run first."""

import json
from collections import Counter
from typing import Any

from lightning_modules.compat.mlflow import VIEW_TAG
from lightning_modules.tracking.store import Store

VIEW_NAME = "touchstone"  # MLflow stores a shared view as a tag of the experiment
_RUNS_READ = 200  # newest runs that are read
_DEFAULT_COLUMNS = ("data", "model", "optimizer.lr", "seed")
_METRICS, _PARAMS = 4, 8  # maximum number of columns


def configure_columns(store: Store) -> str | None:
    """Set the view of the experiment with the newest run; return the page's path, or None without runs."""
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    runs = store.client.search_runs(experiments, max_results=_RUNS_READ, order_by=["attributes.start_time DESC"])
    if not runs:
        return None
    experiment = runs[0].info.experiment_id
    view = {
        "selectedColumns": columns([run for run in runs if run.info.experiment_id == experiment]),
        "orderByKey": "attributes.start_time", "orderByAsc": False, "startTime": "ALL", "lifecycleFilter": "Active",
        "searchFilter": "", "modelVersionFilter": "All Runs", "datasetsFilter": [],
    }  # fmt: skip
    store.client.set_experiment_tag(experiment, f"{VIEW_TAG}{VIEW_NAME}", json.dumps(view))
    return f"/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={VIEW_NAME}"


def columns(runs: list[Any]) -> list[str]:
    """The chosen groups and swept keys that distinguish runs, and the most common test and val metrics."""
    swept = [key for run in runs for key in json.loads(run.data.tags.get("sweep.keys", "[]"))]
    params = dict.fromkeys([*_DEFAULT_COLUMNS[:2], *dict.fromkeys(swept), *_DEFAULT_COLUMNS[2:]])
    known = {key for run in runs for key in run.data.params}
    found = Counter(name for run in runs for name in run.data.metrics if name.count("/") == 1)
    metrics = [name for name, _ in found.most_common() if name.startswith("test/")][: _METRICS // 2]
    for name in ("test/accuracy", "test/loss"):
        metrics = [name, *(other for other in metrics if other != name)] if name in found else metrics
    metrics = metrics[: _METRICS // 2] + [name for name in ("val/accuracy", "val/loss") if name in found]
    chosen = [key for key in params if key in known][:_PARAMS]
    return [*(f"metrics.`{name}`" for name in metrics), *(f"params.`{key}`" for key in chosen)]
