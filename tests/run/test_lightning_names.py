"""`lightning.pytorch` and `pytorch_lightning` in one run; checkpoints in plain Lightning, under both names."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import user_modules
from optional_package import require_package

from lightning_modules.config.command_line import compose_run
from lightning_modules.run import build
from lightning_modules.run.data_adapter import open_data
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.resume import best_checkpoint

QUIET = (
    "tracking.system_metrics_s=null",
    "tracking.pictures=false",
    "callbacks.progress=null",
    "callbacks.summary=null",
)
PLAIN = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
FIRST = """
import lightning as L
import lightning_modules
import pytorch_lightning.callbacks.early_stopping as a, lightning.pytorch.callbacks.early_stopping as b
import pytorch_lightning as pl, lightning_fabric.strategies as c, lightning.fabric.strategies as d
assert L.Trainer is pl.Trainer and a is b and c is d and pl.__spec__.name == "lightning.pytorch", pl.__spec__
"""
BOTH = """
import lightning.pytorch, pytorch_lightning
from lightning_modules.config.command_line import compose_run
from lightning_modules.run.run import run
boring = "{name}.demos.boring_classes.Boring"
run(compose_run(["task=lightning_module", "data=lightning_datamodule", "task._target_=" + boring + "Model",
                 "data._target_=pytorch_lightning.demos.boring_classes.BoringDataModule", "tracking=none"]))
"""
CONTINUE = """
import sys, lightning as L, light_modules
task = light_modules.Classifier.load_from_checkpoint(sys.argv[1])
trainer = L.Trainer(max_epochs=3, **{plain})
trainer.fit(task, light_modules.Points(), ckpt_path=sys.argv[2])
assert trainer.current_epoch == 3 and task.hparams["width"] == 6
assert not [name for name in sys.modules if name.startswith(("lightning_modules", "pytorch_lightning"))]
"""


def python(code: str, *arguments: str, path: str | Path = "", check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(path)]))}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_lightning_may_be_imported_before_this_package() -> None:
    require_package("lightning")
    python(FIRST)


@pytest.mark.slow
def test_two_sets_of_classes_are_rejected_by_name(store: Any) -> None:
    require_package("lightning")
    done = python(BOTH.format(name="lightning.pytorch"), check=False)
    assert done.returncode
    message = done.stderr.splitlines()[-1]
    assert "expected a LightningModule, got a BoringModel of lightning.pytorch" in message
    assert "this process has imported both lightning and pytorch_lightning" in message


@pytest.mark.slow
def test_a_module_of_lightning_trains_on_data_of_pytorch_lightning_and_continues_in_plain_lightning(
    train: Callable[..., Any], store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_package("lightning")
    import lightning as L
    from lightning.fabric.strategies import DDPStrategy
    from lightning_fabric import strategies

    assert L.Trainer is pl.Trainer and DDPStrategy is strategies.DDPStrategy
    assert importlib.util.find_spec("lightning.pytorch.nothing") is None
    source = Path(str(user_modules.__file__)).read_text()
    assert source.count("import pytorch_lightning as pl") == 1
    (tmp_path / "light_modules.py").write_text(source.replace("pytorch_lightning", "lightning.pytorch"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TOUCHSTONE_TRUST", "light_modules,user_modules")
    targets = ("task._target_=light_modules.Classifier", "data._target_=user_modules.Points")
    callback = "+callbacks.accumulate={_target_: lightning.pytorch.callbacks.GradientAccumulationScheduler, scheduling: {0: 2}}"
    monitor = "task.monitor={metric: val_loss, mode: min}"
    words = ("task=lightning_module", "data=lightning_datamodule", *targets, callback, monitor, "+task.width=6")
    run = train(*words, *QUIET, "trainer.max_epochs=2", quick=False)
    assert run.info.status == "FINISHED"
    last = artifact_path(store, run, "checkpoints/last.ckpt")
    python(CONTINUE.format(plain=PLAIN), str(best_checkpoint(store, run)), str(last), path=tmp_path)


def test_a_plain_trainer_continues_a_module(
    train: Callable[..., Any], store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "user_modules")
    targets = ("task._target_=user_modules.Classifier", "data._target_=user_modules.Points")
    words = ("task=lightning_module", "data=lightning_datamodule", *targets, "+task.width=6")
    run = train(*words, "task.monitor={metric: val_loss, mode: min}", *QUIET, "trainer.max_epochs=1", quick=False)
    task = user_modules.Classifier.load_from_checkpoint(best_checkpoint(store, run))
    trainer = pl.Trainer(max_epochs=2, default_root_dir=tmp_path, **PLAIN)
    trainer.fit(task, user_modules.Points(), ckpt_path=artifact_path(store, run, "checkpoints/last.ckpt"))
    assert (trainer.current_epoch, task.hparams["width"]) == (2, 6)


def test_a_plain_trainer_continues_a_task_of_ours_bit_for_bit(
    train: Callable[..., Any], store: Any, tmp_path: Path
) -> None:
    short, whole = (train(f"trainer.max_epochs={epochs}", f"name={epochs}") for epochs in (1, 2))
    cfg = compose_run(["data.per_class=10", "model=mlp"])
    data = open_data(cfg).own
    assert data is not None
    build.infer_shapes(cfg, data)
    built = build.build_task(cfg, data, [])
    parts = {"model": built.model, "loss": built.loss, "preprocess": built.preprocess}
    best = type(built).load_from_checkpoint(best_checkpoint(store, short), **parts, num_outputs=10)
    expected = torch.load(best_checkpoint(store, short), weights_only=True)["state_dict"]
    assert all(torch.equal(value, expected[name]) for name, value in best.state_dict().items())
    task = build.build_task(cfg, data, [])
    trainer = pl.Trainer(max_epochs=2, default_root_dir=tmp_path, **PLAIN)
    trainer.fit(task, data, ckpt_path=artifact_path(store, short, "checkpoints/last.ckpt"))
    expected = torch.load(artifact_path(store, whole, "checkpoints/last.ckpt"), weights_only=True)["state_dict"]
    assert all(torch.equal(value, expected[name]) for name, value in task.state_dict().items())
