"""Static int8, made for an export from a recorded network: calibrated on training samples, which are not augmented."""

import copy
import functools
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from lightning_modules.compression.form import Form
from lightning_modules.compression.stage import Work
from lightning_modules.task.supervised import Supervised


def quantized(task: Supervised, data: Any) -> Supervised:
    """A copy of the task whose network is an int8 program for ONNX Runtime.

    Raises UserError where the network has an operation without an int8 kernel, or there is nothing to calibrate with.
    """
    from lightning_modules.compress import training_batches
    from lightning_modules.compression.quantization.static import StaticInt8

    stage = StaticInt8()
    stage.name = "quantized"
    small = copy.deepcopy(task)
    x = data.example(min(64, len(data.arrays.x)))
    stage.check(small.model, small.preprocess(x[:2]), int(small.passport["model"]["num_outputs"]))
    with TemporaryDirectory() as folder:
        work = Work(
            task=small,
            form=Form(),
            example=x,
            batches=functools.partial(training_batches, data, 0),
            evaluate=_not_needed,
            higher_is_better=True,
            seed=0,
            folder=Path(folder),
            log=lambda values: None,
        )
        stage.begin(work)
        stage.end(work)
    return small.eval()


def _not_needed(model: nn.Module) -> float:
    raise AssertionError("static int8 is chosen by calibration, not by the validation part")
