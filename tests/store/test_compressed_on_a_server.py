"""A compressed run against `mlflow server`: the models of all stages arrive there, and a teacher is fetched from it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.compression.artifact import load_compressed
from lightning_modules.config.command_line import compose_run
from lightning_modules.run.run import run
from lightning_modules.run.serve import model_weights
from lightning_modules.tracking.outbox import work_folder
from lightning_modules.tracking.store import open_store

pytestmark = pytest.mark.slow
WORDS = (
    "model=mlp", "data.per_class=10", "trainer.max_epochs=2", "tracking.system_metrics_s=null", "~callbacks.progress",
    "~callbacks.summary", "tracking.pictures=false", "compression.runtimes=[]",
)  # fmt: skip


def test_the_models_of_all_stages_arrive(
    new_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_server().uri)
    run(compose_run([*WORDS, "compression=deep_compression", "compression.stages.prune.epochs=1"]))
    store = open_store()
    (found,) = store.client.search_runs([store.experiment("touchstone")])
    models = store.client.search_logged_models([found.info.experiment_id], f"source_run_id = '{found.info.run_id}'")
    assert {model.name for model in models} == {"digits-mlp", "digits-mlp-1-prune", "digits-mlp-2-share"}
    last = found.data.tags["touchstone.compressed_model_id"]
    path = model_weights(store, f"models:/{last}")
    assert load_compressed(path).task_spec["name"] == "digits-mlp"
    assert path.stat().st_size == found.data.metrics["compressed/size_bytes"]
    assert "compression/table.md" in {f.path for f in store.client.list_artifacts(found.info.run_id, "compression")}
    assert not work_folder(found.info.run_id).exists()
    taught = [*WORDS, "compression=distillation", f"compression.stages.distil.teacher=models:/{last}"]
    assert 0 <= run(compose_run(taught))["test/accuracy"] <= 1
