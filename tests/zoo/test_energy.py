"""The energy of training from counters as Linux' powercap has them, in a folder of files."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from pytorch_lightning.demos.boring_classes import BoringModel

from lightning_modules.zoo.task.energy import EnergyMeter, ProcessorEnergy


def zone(root: Path, name: str, kind: str, microjoules: int, most: int = 10_000_000) -> Path:
    """Write the files of a zone."""
    (root / name).mkdir(exist_ok=True)
    for file, content in (("name", kind), ("energy_uj", microjoules), ("max_energy_range_uj", most)):
        (root / name / file).write_text(f"{content}\n")
    return root / name


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two packages, a core within one, memory beside them, the whole platform, and the same package by another interface."""
    zones = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-1",
    }
    for name, kind in (zones | {"intel-rapl:2": "psys", "intel-rapl-mmio:0": "package-0"}).items():
        zone(tmp_path, name, kind, 1_000_000)
    return tmp_path


def test_packages_and_memory_are_counted_once_and_counters_wrap_around(powercap: Path) -> None:
    meter = ProcessorEnergy(powercap)
    assert meter.joules() == 0
    for name, kind in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl:2", "psys")):
        zone(powercap, name, kind, 9_000_000)
    assert meter.joules() == 8
    zone(powercap, "intel-rapl:0", "package-0", 500_000)  # 1 J to the end of its range, and on from 0
    zone(powercap, "intel-rapl:0:1", "dram", 1_250_000)
    assert meter.joules() == 8 + 1.5 + 0.25


def test_what_cannot_be_read_is_not_counted(powercap: Path, tmp_path: Path) -> None:
    assert ProcessorEnergy(tmp_path / "none").joules() is None
    for file in powercap.glob("*/energy_uj"):
        file.unlink()
    assert ProcessorEnergy(powercap).joules() is None
    meter = ProcessorEnergy(zone(powercap, "intel-rapl:0", "package-0", 0).parent)
    (powercap / "intel-rapl:0" / "energy_uj").write_text("")
    assert meter.joules() == 0


class Counting(BoringModel):
    """Draws a joule of the first package in each step."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root, self.used = root, 1_000_000
        zone(root, "intel-rapl:0", "package-0", self.used)

    def on_train_batch_end(self, *_: Any) -> None:
        self.used += 1_000_000
        zone(self.root, "intel-rapl:0", "package-0", self.used)


@pytest.mark.parametrize("counted", [True, False])
def test_a_run_has_its_joules_and_counts_on_when_it_is_resumed(
    powercap: Path, counted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    root, found = powercap if counted else powercap / "none", []
    for steps, resumed in ((3, None), (5, powercap / "last.ckpt")):
        logger = pl.loggers.CSVLogger(powercap)
        logger.log_metrics = lambda metrics, step=None: found.append(metrics)  # type: ignore[method-assign,misc]
        trainer = pl.Trainer(
            max_steps=steps, logger=logger, callbacks=[EnergyMeter(root)], enable_checkpointing=False, accelerator="cpu",
            enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(Counting(powercap), ckpt_path=resumed)
        trainer.save_checkpoint(powercap / "last.ckpt")
    energy = [one["system/energy_j"] for one in found if "system/energy_j" in one]
    assert energy == ([3, 5] if counted else [])
    assert ("no energy counter can be read" in capsys.readouterr().err) is not counted
