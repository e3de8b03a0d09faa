"""What we need of MLflow beyond its public interface: the objects of its database, and a few private members."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run
    from mlflow.models import Model

VIEW_TAG = "mlflow.sharedViewState."  # MLflow's page reads an experiment's shared view from this tag


def backend_store(client: "MlflowClient") -> object:
    """The store behind a client: a SqlAlchemyStore where it is a database, whose tables we read and write in bulk."""
    return client._tracking_client.store


def tables() -> ModuleType:
    """The module of the tables of experiments, runs, metrics, tags, logged models and inputs."""
    from mlflow.store.tracking.dbmodels import models

    return models


def model_version_table() -> Any:
    """The table of registered model versions: which artifacts must stay."""
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion

    return SqlModelVersion


def database_engines() -> Iterator[Any]:
    """SQLAlchemy's engines of this process, one per database: a fork must not use the parent's connections."""
    for module in ("mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store"):
        stores = getattr(sys.modules.get(module), "SqlAlchemyStore", None)
        yield from list(getattr(stores, "_engine_map", {}).values())


def hard_delete(store: object, kind: str, name: str) -> None:
    """Delete the row of a "run", "model" or "experiment" and what hangs on it; the client only marks them as deleted."""
    method = {"run": "run", "model": "logged_model", "experiment": "experiment"}[kind]
    getattr(store, f"_hard_delete_{method}")(name)


def latest_metrics(run: "Run") -> "list[Metric]":
    """The last point of each metric with its step and time: the public `metrics` has the values only."""
    return list(run.data._metric_objs)


def save_example(model: "Model", example: object, path: str) -> object:
    """Write a model's input example beside it, as `save_model` does: we write the other files ourselves."""
    from mlflow.models.utils import _save_example

    return _save_example(model, example, path)


@contextmanager
def active_run(uri: str, run: "Run") -> Iterator[None]:
    """Make `run` the one that ``mlflow.log_*`` and autologging write to, here and in forked processes.

    ``mlflow.start_run`` would write its status, and set it to FINISHED when this process exits.
    """
    import mlflow
    from mlflow.tracking._tracking_service.utils import _use_tracking_uri
    from mlflow.tracking.fluent import _active_run_stack

    before, given = _active_run_stack.get(), os.environ.get("MLFLOW_TRACKING_URI")
    _active_run_stack.reset_in_subprocess = False
    _active_run_stack.set([*before, mlflow.ActiveRun(run)])
    try:
        with _use_tracking_uri(uri):
            yield
    finally:
        _active_run_stack.set(before)
        if given is not None:  # MLflow has removed it
            os.environ["MLFLOW_TRACKING_URI"] = given
