"""Recorded runs of a test's store: the newest one, and where its artifacts are."""

from pathlib import Path
from typing import Any
from urllib.parse import unquote


def newest_run(store: Any) -> Any:
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    return store.client.search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=1)[0]


def artifacts(recorded: Any) -> Path:
    return Path(unquote(recorded.info.artifact_uri.removeprefix("file://")))
