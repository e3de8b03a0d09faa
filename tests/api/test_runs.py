"""Runs from Python: composed, trained from a config or from objects, listed, loaded."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import pytorch_lightning as pl
import torch
import user_modules
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate

from lightning_modules import compose, load, recorded, run, runs
from lightning_modules.config.errors import UserError
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.rerun import rerun
from lightning_modules.tracking.tags import NOT_RERUNNABLE_TAG

TINY = (
    "trainer.max_epochs=1",
    "tracking.system_metrics_s=null",
    "tracking.pictures=false",
    "callbacks.progress=null",
    "callbacks.summary=null",
)
OWN = ("task=lightning_module", "task._target_=user_modules.Classifier", "data=lightning_datamodule",
       "data._target_=user_modules.Points", "trust=[user_modules]", *TINY)  # fmt: skip


class Failing(user_modules.GAN):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        raise TypeError("a bug of the user's")


@pytest.fixture(autouse=True)
def no_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "")


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, lightning_modules; print({'torch', 'hydra', 'mlflow', 'numpy'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "set()"


def test_a_run_is_recorded_listed_and_loaded(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["kernel", "-f", "connection.json", "debug=nonsense"])
    before = torch.get_rng_state(), random.getstate(), set(os.environ), torch.are_deterministic_algorithms_enabled()
    result = run(compose([*OWN, "name=mine", "+task.width=6"]))
    after = torch.get_rng_state(), random.getstate(), set(os.environ), torch.are_deterministic_algorithms_enabled()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    recorded = store.client.get_run(result.run_id)
    assert (recorded.info.run_name, recorded.info.status) == ("mine", "FINISHED")
    assert result.metrics["test_samples"] == recorded.data.metrics["test_samples"] == 21
    table = runs(where="params.`task.width` = '6'")
    assert list(table.run_id) == [result.run_id] and table["metrics.test_samples"][0] == 21
    assert runs("touchstone", "metrics.test_samples > 21").empty
    task = load("mine")
    assert isinstance(task, user_modules.Classifier) and task.hparams["width"] == 6 and not task.training
    saved = torch.load(artifact_path(store, recorded, "checkpoints/last.ckpt"), weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in task.state_dict().items())


@pytest.mark.slow
def test_runs_of_one_process_do_not_influence_each_other(store: Any) -> None:
    cfg = compose([*OWN, "+task.width=5"])
    alone = run(cfg).metrics
    threads = torch.get_num_threads()
    other = compose([*OWN, "seed=3", "cpu_threads=2", "trainer.deterministic=false"])
    assert run(other).metrics["val_loss"] != alone["val_loss"]
    assert torch.get_num_threads() == threads
    torch.rand(7)
    assert run(cfg).metrics == alone


def test_a_run_of_objects_says_what_it_is(store: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Local(user_modules.Classifier):
        """Cannot be imported."""

    task, data = Local(width=7), user_modules.Points(batch_size=8)
    result = run(compose([*TINY, "seed=4"]), task=task, data=data)
    assert "rerun and resume: a record cannot rebuild the task and data given in Python" in capsys.readouterr().out
    recorded = store.client.get_run(result.run_id)
    assert recorded.info.run_name == "Points-Local max_epochs=1 seed=4"
    assert {key: recorded.data.params[key] for key in ("task.width", "data.batch_size", "seed")} == {
        "task.width": "7", "data.batch_size": "8", "seed": "4",
    }  # fmt: skip
    assert "model.width" not in recorded.data.params
    assert recorded.data.tags[NOT_RERUNNABLE_TAG] == "task and data"
    assert "touchstone rerun" not in recorded.data.tags["mlflow.note.content"]
    refused = f"run {result.run_id} cannot be rerun or resumed: its task and data existed only in the Python program"
    with pytest.raises(UserError, match=refused):
        run(compose([f"resume={result.run_id}"]))
    with pytest.raises(UserError, match=refused):
        rerun(str(result.run_id), here=True)
    with pytest.raises(UserError, match="create the object again"):
        load(str(result.run_id))
    again = load(str(result.run_id), task=Local(width=7))
    assert all(torch.equal(*pair) for pair in zip(again.state_dict().values(), task.state_dict().values(), strict=True))
    with pytest.raises(UserError, match="does not match the task"):
        load(str(result.run_id), task=Local(width=8))


@pytest.mark.slow
def test_the_source_of_an_object_is_recorded_and_its_loaders_are_its_own_again(store: Any) -> None:
    task, data = user_modules.GAN(), user_modules.Points()
    results = [run(compose(["task=lightning_module", *TINY]), task=task, data=data) for _ in range(2)]
    for result in results:
        listed = artifact_path(store, store.client.get_run(result.run_id), "code/modules.json")
        assert '"user_modules": {' in listed.read_text()
    with pytest.raises(TypeError):
        run(compose(["task=lightning_module", *TINY]), task=Failing(), data=data)
    assert data.train_dataloader.__func__ is user_modules.Points.train_dataloader


@pytest.mark.slow
def test_one_object_is_combined_with_a_config(store: Any) -> None:
    cfg = compose(["model=mlp", *TINY])
    result = run(cfg, data=instantiate(cfg.data, per_class=10))
    assert store.client.get_run(result.run_id).data.tags[NOT_RERUNNABLE_TAG] == "data"
    assert load(str(result.run_id))(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compose(["data=digitz"]), "did you mean 'digits'"),
        (lambda: compose(["trust=3"]), "trust: expected a list of packages"),
        (lambda: run(compose(["+task.widht=3", *OWN])), "has no argument 'widht'"),
        (lambda: run(compose(), task=torch.nn.Linear(1, 1)), "task: expected a LightningModule, got a Linear"),
        (lambda: run(compose(), data=pl.LightningModule()), "data: expected a LightningDataModule"),
        (lambda: run(compose(["optimizer.lr=1"]), task=pl.LightningModule()), "optimizer.lr=1: .* no argument"),
        (
            lambda: run(compose(["+task.loss.reduction=sum"]), task=pl.LightningModule()),
            "task.loss.reduction=sum has no effect on an object",
        ),
        (lambda: run(compose(OWN), task=pl.LightningModule()), "task: _target_ has no effect on an object"),
        (lambda: run(compose(["resume=a"]), task=pl.LightningModule()), "resume=a: a resumed run has the task of"),
        (lambda: run(["data=digits"]), r"run: expected a config, as compose\(.* makes it, got a list"),
        (lambda: recorded(config=Path()).__enter__(), "recorded: expected a mapping as config, .*, got a PosixPath"),
        (lambda: recorded(config={"a=b": 1}).__enter__(), "the tracking store failed: .*a=b"),
        (lambda: load("nothing"), "no run 'nothing'"),
        (lambda: load("models:/m-0"), "models:/m-0: "),
        (lambda: runs("touchstoned"), "no experiment 'touchstoned'"),
        (lambda: runs(where="metrics.x <> 3"), "the tracking store failed: "),
    ],
)
def test_a_mistake_is_one_error(store: Any, call: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.slow
def test_an_interrupted_run_is_killed_and_raises_keyboard_interrupt(store: Any) -> None:
    class Interrupted(user_modules.GAN):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), dict(os.environ)
    with pytest.raises(KeyboardInterrupt):
        run(compose(["task=lightning_module", *TINY]), task=Interrupted(), data=user_modules.Points())
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), dict(os.environ))
    assert runs().status[0] == "KILLED"


@pytest.mark.slow
def test_an_app_of_hydra_has_its_own_config_afterwards(tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text("of: the app")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        before = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
        compose(["data=digits"])
        assert (GlobalHydra.instance().hydra, HydraConfig.instance().cfg) == before
        assert hydra_compose("app").of == "the app"


@pytest.mark.slow
def test_objects_are_trained_on_two_ranks(store: Any) -> None:
    task = user_modules.Classifier()
    cfg = compose(["task=lightning_module", "strategy=ddp", "trainer.devices=2", *TINY])
    result = run(cfg, task=task, data=user_modules.Points())
    assert result.metrics["test_samples"] == 21
    again = load(str(result.run_id), task=user_modules.Classifier())
    assert all(torch.equal(*pair) for pair in zip(again.state_dict().values(), task.state_dict().values(), strict=True))


@pytest.mark.slow
def test_a_run_works_in_a_thread_and_leaves_the_signals_alone(store: Any) -> None:
    found: list[Any] = []
    cfg = compose(OWN)
    thread = threading.Thread(target=lambda: found.append(run(cfg)))
    thread.start()
    thread.join()
    assert store.client.get_run(found[0].run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_the_project_of_the_working_directory_counts(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "TOUCHSTONE_TRUST", "TOUCHSTONE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "conf" / "task").mkdir(parents=True)
    (tmp_path / "conf" / "task" / "net.yaml").write_text("_target_: projectlab.Net\nwidth: 5\nmonitor: null\n")
    (tmp_path / "pyproject.toml").write_text("[tool.touchstone]\ntrust = ['projectlab', 'user_modules']\n")
    (tmp_path / "projectlab.py").write_text("from user_modules import Classifier\nclass Net(Classifier): ...\n")
    (tmp_path / "mlruns").mkdir()
    for file in empty_database.parent.glob("mlflow.db*"):
        shutil.copy(file, tmp_path / "mlruns" / file.name)
    monkeypatch.chdir(tmp_path)
    result = run(compose(["task=net", "data=lightning_datamodule", "data._target_=user_modules.Points", *TINY]))
    assert type(load(str(result.run_id))).__name__ == "Net"
    assert list(runs().run_id) == [result.run_id]
    with recorded() as loop:
        mlflow.log_metric("inside", 1)
    assert list(runs(where="metrics.inside = 1").run_id) == [loop.run_id]
    assert "MLFLOW_TRACKING_URI" not in os.environ and "TOUCHSTONE_HOME" not in os.environ
