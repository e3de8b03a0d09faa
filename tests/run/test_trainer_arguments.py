"""Every argument of Lightning's Trainer reaches it, or is rejected with what to use instead."""

import copy
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, open_dict
from pytorch_lightning.plugins import MixedPrecision

from lightning_modules.config.check import check_config
from lightning_modules.config.command_line import compose_run, format_error
from lightning_modules.config.errors import UserError
from lightning_modules.run.build import build_trainer

BORING = "pytorch_lightning.demos.boring_classes"
FOREIGN = (
    "task=lightning_module", f"task._target_={BORING}.BoringModel", "data=lightning_datamodule",
    f"data._target_={BORING}.BoringDataModule",
)  # fmt: skip
PRECISION = {"_target_": "pytorch_lightning.plugins.MixedPrecision", "precision": "bf16-mixed", "device": "cpu"}
# argument: value, where the Trainer has it, what it has there
REACH: dict[str, tuple[Any, Callable[[Any], Any], Any]] = {
    "accelerator": ("cpu", lambda t: type(t.accelerator).__name__, "CPUAccelerator"),
    "devices": (1, lambda t: t.num_devices, 1),
    "num_nodes": (1, lambda t: t.num_nodes, 1),
    "precision": ("bf16-mixed", lambda t: t.precision, "bf16-mixed"),
    "max_epochs": (7, lambda t: t.max_epochs, 7),
    "min_epochs": (2, lambda t: t.min_epochs, 2),
    "max_steps": (9, lambda t: t.max_steps, 9),
    "min_steps": (3, lambda t: t.min_steps, 3),
    "max_time": ({"minutes": 2}, lambda t: t.fit_loop.max_steps and t.callbacks[-1]._duration, 120.0),
    "limit_train_batches": (4, lambda t: t.limit_train_batches, 4),
    "limit_val_batches": (0.5, lambda t: t.limit_val_batches, 0.5),
    "limit_test_batches": (2, lambda t: t.limit_test_batches, 2),
    "limit_predict_batches": (2, lambda t: t.limit_predict_batches, 2),
    "overfit_batches": (2, lambda t: t.overfit_batches, 2),
    "val_check_interval": (0.5, lambda t: t.val_check_interval, 0.5),
    "check_val_every_n_epoch": (3, lambda t: t.check_val_every_n_epoch, 3),
    "num_sanity_val_steps": (2, lambda t: t.num_sanity_val_steps, 2),
    "log_every_n_steps": (8, lambda t: t.log_every_n_steps, 8),
    "accumulate_grad_batches": (2, lambda t: t.accumulate_grad_batches, 2),
    "gradient_clip_val": (0.5, lambda t: t.gradient_clip_val, 0.5),
    "gradient_clip_algorithm": ("value", lambda t: t.gradient_clip_algorithm, "value"),
    "deterministic": ("warn", lambda t: torch.is_deterministic_algorithms_warn_only_enabled(), True),
    "benchmark": (True, lambda t: torch.backends.cudnn.benchmark, True),
    "inference_mode": (False, lambda t: t.validate_loop.inference_mode, False),
    "use_distributed_sampler": (False, lambda t: t._accelerator_connector.use_distributed_sampler, False),
    "profiler": ("advanced", lambda t: type(t.profiler).__name__, "AdvancedProfiler"),
    "detect_anomaly": (True, lambda t: t._detect_anomaly, True),
    "plugins": ([PRECISION], lambda t: type(t.precision_plugin), MixedPrecision),
    "sync_batchnorm": (True, lambda t: t._accelerator_connector._layer_sync is not None, True),
    "reload_dataloaders_every_n_epochs": (2, lambda t: t.reload_dataloaders_every_n_epochs, 2),
    "enable_autolog_hparams": (False, lambda t: t.enable_autolog_hparams, False),
    "model_registry": ("team/model", lambda t: t._model_registry, "team/model"),
}  # fmt: skip
REJECTED = {
    "fast_dev_run": "debug=fast", "barebones": "tracking=none", "strategy": "strategy=…", "logger": "loggers=…",
    "callbacks": "callbacks.NAME", "default_root_dir": "tracking.uri", "enable_checkpointing": "callbacks.best=null",
    "enable_progress_bar": "callbacks.progress=null", "enable_model_summary": "callbacks.summary=null",
}  # fmt: skip
OF_OUR_DATA = ("overfit_batches", "use_distributed_sampler")


@pytest.fixture(scope="module")
def configs() -> tuple[DictConfig, DictConfig]:
    return compose_run([]), compose_run(FOREIGN)


def with_argument(cfg: DictConfig, key: str, value: Any) -> DictConfig:
    changed = copy.deepcopy(cfg)
    with open_dict(changed):
        changed.trainer[key] = value
        if key == "plugins":
            changed.trainer.precision = None
    return changed


def test_each_argument_is_covered() -> None:
    assert set(inspect.signature(pl.Trainer).parameters) == REACH.keys() | REJECTED.keys()


@pytest.fixture
def global_settings() -> Iterator[None]:
    before = torch.backends.cudnn.benchmark
    yield
    torch.backends.cudnn.benchmark = before
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("global_settings")
@pytest.mark.parametrize("key", REACH)
def test_an_argument_reaches_lightning(configs: tuple[DictConfig, DictConfig], key: str) -> None:
    value, where, expected = REACH[key]
    for own, cfg in zip((True, False), configs, strict=True):
        changed = with_argument(cfg, key, value)
        check_config(changed)
        trainer = build_trainer(changed, [], None, Path(), shards_itself=own)
        assert where(trainer) == expected, own


def test_others_are_rejected_by_name_and_all_together(configs: tuple[DictConfig, DictConfig]) -> None:
    for cfg in configs:
        changed = cfg
        for key in REJECTED:
            changed = with_argument(changed, key, [] if key == "callbacks" else True)
        with pytest.raises(UserError) as error:
            check_config(changed)
        for key, instead in REJECTED.items():
            assert any(f"trainer.{key}=" in line and instead in line for line in str(error.value).splitlines()), key


@pytest.mark.parametrize("setting", OF_OUR_DATA)
def test_what_our_datamodules_do_themselves_is_rejected(train: Any, setting: str) -> None:
    with pytest.raises(UserError, match=rf"trainer\.{setting}=.*use debug=overfit"):
        train(f"+trainer.{setting}=true" if setting.startswith("use") else f"+trainer.{setting}=1")


def test_what_lightning_rejects_is_one_message(train: Any) -> None:
    with pytest.raises(ValueError, match="val_check_interval") as error:
        train("+trainer.val_check_interval=100")
    assert str(format_error(error.value)).startswith("Lightning:")


@pytest.mark.parametrize("precision", [pytest.param("64-true", marks=pytest.mark.slow), "bf16-true"])
def test_a_served_module_has_the_precision_of_its_trainer(
    train: Any, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "user_modules")
    words = ("task=lightning_module", "task._target_=user_modules.Classifier", "data=lightning_datamodule")
    quiet = ("callbacks.progress=null", "callbacks.summary=null", "tracking.system_metrics_s=null")
    chosen = ("data._target_=user_modules.Points", "trainer.max_epochs=1", f"trainer.precision={precision}")
    assert train(*words, *quiet, *chosen, quick=False).info.status == "FINISHED"
