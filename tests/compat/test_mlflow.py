import time

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from sqlalchemy import select

from lightning_modules.compat import mlflow as compat
from lightning_modules.compat.mlflow_system_metrics import SystemMetrics


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> MlflowClient:
    return MlflowClient(f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}")


@pytest.fixture
def run(client):
    run = client.create_run(client.create_experiment(f"of {time.time_ns()}"))
    client.log_metric(run.info.run_id, "loss", 2.0, step=3, timestamp=1)
    client.log_metric(run.info.run_id, "loss", 1.0, step=7, timestamp=2)
    client.set_tag(run.info.run_id, "tag", "value")
    return run


def rows(client, *columns):
    with compat.backend_store(client).ManagedSessionMaker(read_only=True) as session:
        return session.execute(select(*columns)).all()


def test_the_last_points_have_their_step_and_time(client, run):
    (point,) = compat.latest_metrics(client.get_run(run.info.run_id))
    assert (point.key, point.value, point.step, point.timestamp) == ("loss", 1.0, 7, 2)


def test_the_store_is_a_database_with_the_tables_that_we_write(client, run):
    store, tables = compat.backend_store(client), compat.tables()
    assert store.db_type == "sqlite"
    assert store.sanitize_metric_value(float("nan")) == (True, 0)
    names = {
        "SqlMetric": "key value timestamp step is_nan run_uuid",
        "SqlLatestMetric": "key value timestamp step is_nan run_uuid",
        "SqlRun": "run_uuid artifact_uri lifecycle_stage experiment_id status",
        "SqlExperiment": "experiment_id artifact_location lifecycle_stage",
        "SqlLoggedModel": "model_id artifact_location lifecycle_stage experiment_id source_run_id",
        "SqlTag": "run_uuid key value",
        "SqlInput": "input_uuid source_id destination_id",
        "SqlInputTag": "input_uuid",
    }
    for table, columns in names.items():
        present = set(getattr(tables, table).__table__.columns.keys())
        assert present >= set(columns.split()), table
    run_id = run.info.run_id
    assert (run_id, "tag", "value") in rows(client, *(getattr(tables.SqlTag, c) for c in ("run_uuid", "key", "value")))
    with store.ManagedSessionMaker(read_only=False) as session:
        session.execute(tables.SqlTag.__table__.insert(), [{"run_uuid": run_id, "key": "more", "value": "1"}])
    assert client.get_run(run_id).data.tags["more"] == "1"


def test_model_versions_say_where_their_files_are():
    columns = compat.model_version_table().__table__.columns.keys()
    assert {"source", "storage_location", "current_stage"} <= set(columns)


def test_engines_of_this_process_are_known(client):
    client.search_experiments()
    assert str(client.tracking_uri) in {str(engine.url) for engine in compat.database_engines()}


def test_rows_are_deleted_for_good(client, run):
    experiment, run_id = run.info.experiment_id, run.info.run_id
    model = client.create_logged_model(experiment, name="net", source_run_id=run_id)
    client.delete_experiment(experiment)
    store, tables = compat.backend_store(client), compat.tables()
    for kind, name in (("model", model.model_id), ("run", run_id), ("experiment", experiment)):
        compat.hard_delete(store, kind, name)
    assert (run_id,) not in rows(client, tables.SqlRun.run_uuid)
    assert (model.model_id,) not in rows(client, tables.SqlLoggedModel.model_id)
    assert (int(experiment),) not in rows(client, tables.SqlExperiment.experiment_id)


def test_an_example_is_written_beside_a_model(tmp_path):
    from mlflow.models import Model

    model = Model()
    compat.save_example(model, np.ones((2, 3), np.float32), str(tmp_path))
    assert (tmp_path / model.saved_input_example_info["artifact_path"]).exists()


def test_the_tag_of_a_view_is_the_one_that_mlflows_page_reads():
    from pathlib import Path

    scripts = Path(mlflow.__file__).parent / "server" / "js" / "build" / "static" / "js"
    assert scripts.is_dir(), "MLflow is installed without its page"
    assert any(compat.VIEW_TAG in path.read_text(errors="ignore") for path in scripts.rglob("*.js"))


def test_samples_of_the_machine_are_collected_with_their_steps(client, run):
    samples = []

    def collect(metrics, step):
        samples.append((metrics, step))

    monitor = SystemMetrics(run.info.run_id, client.tracking_uri, collect, 0.05, resumed=False)
    monitor.start()
    deadline = time.monotonic() + 30
    while len(samples) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    monitor.finish()
    assert [step for _, step in samples[:2]] == [0, 1]
    assert "system/cpu_utilization_percentage" in samples[0][0]
