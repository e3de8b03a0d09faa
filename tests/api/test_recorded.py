"""A record around any loop."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
import yaml

from lightning_modules import compose, recorded, run
from lightning_modules.config.errors import UserError
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.store import open_store

CONFIG = {
    "lr": 0.1,
    "api_key": "abcdefgh",
    "net": {"widths": [4, 2]},
    "choices": "kept",
    "overrides": 3,
    "at": Path("x"),
}
SCRIPT = """
import helper
from lightning_modules import recorded

with recorded("loops", {"lr": helper.LR}, name="script") as run:
    run.log_metrics({"loss": 1.0}, 0)
"""


def test_a_loop_is_recorded(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.environ["MLFLOW_TRACKING_URI"], signal.getsignal(signal.SIGTERM), mlflow.active_run()
    net = torch.nn.Linear(4, 2)
    with recorded("loops", CONFIG, name="plain") as loop:
        for step in range(3):
            loop.log_metrics({"loss": net(torch.zeros(1, 4)).sum() * 0 + step}, step)
        (loop.folder / "net.txt").write_text("weights")
        mlflow.log_metric("extra", 2.5)
        mlflow.log_text("more", "more.txt")
        run_id = loop.run_id
    assert before == (os.environ["MLFLOW_TRACKING_URI"], signal.getsignal(signal.SIGTERM), mlflow.active_run())
    assert mlflow.get_tracking_uri() == before[0]
    ended = store.client.get_run(run_id)
    assert (ended.info.status, ended.info.run_name) == ("FINISHED", "plain")
    assert ended.data.metrics["loss"] == 2 and ended.data.metrics["extra"] == 2.5
    used = {name: value for name, value in ended.data.metrics.items() if name.startswith("system/")}
    assert used.keys() == {"system/cpu_s", "system/peak_memory_bytes"}, "of the process, none of the machine"
    assert 0 < used["system/cpu_s"] < 600 and 1e7 < used["system/peak_memory_bytes"] < 1e11
    assert ended.data.params == {
        "lr": "0.1", "api_key": "***", "net.widths": "[4, 2]", "choices": "kept", "overrides": "3", "at": "x",
    }  # fmt: skip
    assert yaml.safe_load(artifact_path(store, ended, "config/config.yaml").read_text())["net"] == {"widths": [4, 2]}
    for name in ("net.txt", "more.txt", "environment/requirements.txt", "environment/hardware.json"):
        assert artifact_path(store, ended, name).is_file()
    assert len(ended.data.tags["mlflow.source.git.commit"]) == 40
    assert not store.client.search_logged_models([ended.info.experiment_id])
    with pytest.raises(UserError, match="its loop existed only in the Python program"):
        run(compose([f"resume={run_id}"]))


@pytest.mark.slow
def test_an_error_is_recorded_and_passed_on(store: Any) -> None:
    with pytest.raises(FileNotFoundError), recorded() as loop:
        Path("nowhere").read_text()
    ended = store.client.get_run(loop.run_id)
    assert ended.info.status == "FAILED"
    assert 'Path("nowhere").read_text()' in artifact_path(store, ended, "traceback.txt").read_text()
    assert mlflow.active_run() is None


def test_ctrl_c_is_a_keyboard_interrupt_of_a_killed_run(store: Any) -> None:
    with pytest.raises(KeyboardInterrupt), recorded() as loop:
        signal.raise_signal(signal.SIGINT)
    assert store.client.get_run(loop.run_id).info.status == "KILLED"


@pytest.mark.slow
def test_a_signal_ends_the_process_as_it_does_without_a_record(store: Any) -> None:
    child = os.fork()
    if child == 0:
        with recorded("killed"):
            signal.raise_signal(signal.SIGTERM)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM
    experiment = store.client.get_experiment_by_name("killed").experiment_id
    assert [ended.info.status for ended in store.client.search_runs([experiment])] == ["KILLED"]


@pytest.mark.slow
def test_a_thread_installs_no_signal_handlers(store: Any) -> None:
    found: list[Any] = []

    def loop() -> None:
        with recorded() as one:
            found.extend([one.run_id, signal.getsignal(signal.SIGTERM)])

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=loop)
    thread.start()
    thread.join()
    assert found[1] == before and store.client.get_run(found[0]).info.status == "FINISHED"


@pytest.mark.slow
def test_loops_may_be_nested_in_a_run_of_mlflow(store: Any) -> None:
    with mlflow.start_run() as outer:
        with recorded(config=compose().trainer) as loop:
            mlflow.log_metric("inner", 1)
        mlflow.log_metric("outer", 1)
    assert store.client.get_run(loop.run_id).data.metrics.keys() >= {"inner"}
    assert store.client.get_run(outer.info.run_id).data.metrics.keys() == {"outer"}


@pytest.mark.slow
def test_the_script_and_what_it_imports_are_the_recorded_code(store: Any, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "helper.py").write_text("LR = 0.5\n")
    subprocess.run([sys.executable, "train.py"], cwd=tmp_path, check=True)
    found = next(open_store().search_runs("attributes.run_name = 'script'"))
    modules = json.loads(artifact_path(store, found, "code/modules.json").read_text())["modules"]
    assert {name: Path(module["file"]).name for name, module in modules.items()} == {
        "__main__": "train.py", "helper": "helper.py",
    }  # fmt: skip
