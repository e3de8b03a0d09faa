"""Energy that training takes, from the counters of processors and GPUs."""

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lightning_modules.config.errors import warn

POWERCAP = Path("/sys/class/powercap")  # of Linux


class ProcessorEnergy:
    """Joules of the machine's processors and their memory since this object was made.

    The kernel counts microjoules (docs.kernel.org/power/powercap/powercap.html) and starts at 0 again after
    ``max_energy_range_uj``, which takes minutes under load: `joules` has to be called more often.

    Args:
        root: the folder of the zones. A zone that cannot be read is not counted; most systems let only root read them.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._total, self._lock = 0.0, threading.Lock()
        self._last: dict[Path, int] = {}
        for zone in sorted(root.glob("intel-rapl:*")):  # AMD's, too. Packages contain their cores, but not their memory
            with contextlib.suppress(OSError, ValueError):
                if (zone / "name").read_text().strip().partition("-")[0] in ("package", "dram"):
                    self._last[zone] = _read(zone / "energy_uj")

    def joules(self) -> float | None:
        """Return the energy so far; None if there is no counter."""
        with self._lock:
            for zone, last in self._last.items():
                with contextlib.suppress(OSError, ValueError):
                    now = _read(zone / "energy_uj")
                    wrapped = _read(zone / "max_energy_range_uj") if now < last else 0
                    self._total += (now + wrapped - last) / 1e6
                    self._last[zone] = now
        return self._total if self._last else None


def _read(file: Path) -> int:
    return int(file.read_text())


def gpu_joules(devices: Sequence[int]) -> float | None:
    """Return what CUDA's `devices` have used since their driver was loaded; None if NVML does not count it."""
    with contextlib.suppress(Exception):  # no library, no driver, or a GPU before Volta
        import pynvml

        pynvml.nvmlInit()
        ids = [f"GPU-{torch.cuda.get_device_properties(device).uuid}" for device in devices]
        handles = [pynvml.nvmlDeviceGetHandleByUUID(name) for name in ids]
        used = [pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles]  # mJ
        return sum(used) / 1e3 if used else None
    return None


class EnergyMeter(pl.Callback):
    """Logs ``system/energy_j``: what the machine's processors and the run's GPUs take from the start to the end of training.

    Where no counter can be read, one line says so and nothing is logged. A resumed run counts on from its checkpoint. What
    other processes take of the processors meanwhile is included.

    Args:
        root: of Linux' powercap.
        interval_s: seconds between two readings.
    """

    def __init__(self, root: str | Path = POWERCAP, interval_s: float = 20.0) -> None:
        self.root, self.interval_s = Path(root), interval_s
        self._before = 0.0  # joules of this run until it was resumed
        self._processors: ProcessorEnergy | None = None
        self._ended = threading.Event()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._devices = trainer.device_ids if trainer.strategy.root_device.type == "cuda" else ()
        self._gpus, self._processors = gpu_joules(self._devices), ProcessorEnergy(self.root)
        if self._gpus is None and self._processors.joules() is None and trainer.is_global_zero:
            warn(
                f"callbacks.energy: no energy counter can be read in {self.root} or of a GPU; system/energy_j is not logged"
            )
        self._ended.clear()
        threading.Thread(target=self._watch, args=(self._processors,), daemon=True).start()

    def _watch(self, processors: ProcessorEnergy) -> None:
        while not self._ended.wait(self.interval_s):
            processors.joules()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._ended.set()
        if (joules := self._joules()) is not None and trainer.logger is not None:
            trainer.logger.log_metrics({"system/energy_j": joules}, trainer.global_step)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._ended.set()

    def _joules(self) -> float | None:
        """Return the energy so far; None if nothing counts it."""
        if self._processors is None:  # before training
            return self._before
        gpus = gpu_joules(self._devices)
        parts = [self._processors.joules(), None if gpus is None or self._gpus is None else gpus - self._gpus]
        found = [part for part in parts if part is not None]
        return self._before + sum(found) if found else None

    def state_dict(self) -> dict[str, Any]:
        return {"joules": self._joules()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = state_dict["joules"] or 0.0
