"""Loggers beside the record."""

import csv
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.run.run import run as run_config
from lightning_modules.tracking.artifacts import artifact_path

LOGGERS = "pytorch_lightning.loggers"
NO_RECORD = ("data.per_class=10", "model=linear", "trainer.max_epochs=1", "tracking=none", "callbacks=last")


def points(path: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                found.setdefault(name, []).extend([float(value)] if value else [])
    return found


def test_a_logger_beside_the_record_gets_the_same_points(train: Any, store: Any) -> None:
    run = train("model=linear", "loggers=csv", "trainer.log_every_n_steps=1")
    written = artifact_path(store, run, "loggers/csv/lightning_logs/version_0")
    found = points(written / "metrics.csv")
    for name in ("train/loss", "val/loss", "val/accuracy", "train/accuracy", "test/f1"):
        history = [point.value for point in store.client.get_metric_history(run.info.run_id, name)]
        assert found[name] == pytest.approx(history) and history, name
    assert "max_epochs: 2" in (written / "hparams.yaml").read_text()


def test_a_logger_works_without_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_config(compose_run([*NO_RECORD, "loggers=csv", f"loggers.csv.save_dir={tmp_path}"]))
    assert points(tmp_path / "lightning_logs" / "version_0" / "metrics.csv")["val/accuracy"]


def test_the_default_run_records_no_key_of_loggers() -> None:
    cfg = compose_run([])
    assert "loggers" not in cfg and "loggers" not in cfg.choices


@pytest.mark.parametrize(
    "words, message",
    [
        (["loggers=csv"], "loggers.csv.save_dir: tracking=none has no folder"),
        ([f"+loggers.m._target_={LOGGERS}.MLFlowLogger", "+loggers.m.save_dir=here"], "would start a second run"),
        (["+loggers.m._target_=pytorch_lightning.callbacks.Timer"], "loggers.m: expected a Logger, got a Timer"),
        (["+loggers.m.save_dir=here"], "loggers.m: '_target_' is missing"),
        ([f"+loggers.m._target_={LOGGERS}.CSVLogger", "+loggers.m.nam=x"], "CSVLogger has no argument 'nam'"),
        (["loggers=comet"], "unknown option of loggers"),
    ],
)
def test_a_wrong_logger_is_named_before_the_run(words: list[str], message: str) -> None:
    from lightning_modules.config.command_line import format_error

    with pytest.raises(Exception) as error:  # the text that the command line shows
        run_config(compose_run([*NO_RECORD, *words]))
    assert message in str(format_error(error.value, [*NO_RECORD, *words]))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_named_with_its_install_command(
    name: str, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "wandb":
        monkeypatch.setattr(f"{LOGGERS}.wandb._WANDB_AVAILABLE", False)
    else:
        for part in ("tensorboard", "tensorboardX"):
            monkeypatch.setitem(sys.modules, part, None)
        monkeypatch.setattr("lightning_fabric.loggers.tensorboard._TENSORBOARD_AVAILABLE", False)
        monkeypatch.setattr("lightning_fabric.loggers.tensorboard._TENSORBOARDX_AVAILABLE", False)
    with pytest.raises(UserError, match=rf"loggers\.{name}: .* pip install {name}"):
        train("model=linear", f"loggers={name}")
