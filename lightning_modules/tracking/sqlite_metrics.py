"""Insert many metrics into a SQLite store with two statements; MLflow needs several queries for each of them."""

from typing import TYPE_CHECKING, Any

from lightning_modules.compat.mlflow import backend_store, tables
from lightning_modules.config.plain import PlainDict

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric


def log_metrics_fast(client: "MlflowClient", run_id: str, metrics: "list[Metric]") -> None:
    """Store metrics like ``client.log_batch``, with the same result at a tenth of the cost.

    The fast path needs a SQLite store, an active run and no metric of a model; everything else goes through MLflow.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store: object = backend_store(client)
    plain = not any(metric.model_id for metric in metrics)
    if not (
        plain
        and isinstance(store, SqlAlchemyStore)
        and store.db_type == "sqlite"
        and _insert_rows(store, run_id, metrics)
    ):
        client.log_batch(run_id, metrics=metrics)


def _insert_rows(store: Any, run_id: str, metrics: "list[Metric]") -> bool:
    from sqlalchemy import select, tuple_
    from sqlalchemy.dialects.sqlite import insert

    SqlLatestMetric, SqlMetric, SqlRun = tables().SqlLatestMetric, tables().SqlMetric, tables().SqlRun  # noqa: N806
    rows = []
    for metric in metrics:
        is_nan, value = store.sanitize_metric_value(metric.value)
        row = {"key": metric.key, "value": value, "timestamp": metric.timestamp, "step": metric.step}
        rows.append({**row, "is_nan": is_nan, "run_uuid": run_id})
    latest = {str(row["key"]): row for row in rows}  # in this order, which is that of MLflow's pages
    for row in sorted(rows, key=_recency):
        latest[str(row["key"])] = row
    with store.ManagedSessionMaker(read_only=False) as session:
        if session.scalar(select(SqlRun.lifecycle_stage).where(SqlRun.run_uuid == run_id)) != "active":
            return False
        session.execute(insert(SqlMetric).on_conflict_do_nothing(), rows)
        upsert = insert(SqlLatestMetric)
        new, old = upsert.excluded, SqlLatestMetric
        changed = {name: getattr(new, name) for name in ("value", "timestamp", "step", "is_nan")}
        later = tuple_(new.step, new.timestamp, new.value) > tuple_(old.step, old.timestamp, old.value)
        upsert = upsert.on_conflict_do_update(index_elements=["key", "run_uuid"], set_=changed, where=later)
        session.execute(upsert, list(latest.values()))
    return True


def _recency(row: PlainDict) -> tuple[int, int, float]:
    """MLflow's latest value is that of the highest step, then timestamp, then value."""
    return row["step"], row["timestamp"], row["value"]
