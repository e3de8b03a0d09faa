"""Static int8 quantization of a recorded network for an export, calibrated on training samples without augmentation."""

import copy
import functools
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from lightning_modules.compression.compressed_state import CompressedState
from lightning_modules.compression.stage import StageContext
from lightning_modules.task.supervised import Supervised


def quantize_for_export(task: Supervised, data: Any) -> Supervised:
    """A copy of the task whose network is an int8 ONNX model.

    Raises UserError if the network has an operation without an int8 kernel, or if there are no calibration samples.
    """
    from lightning_modules.compression.quantization.static_int8 import StaticInt8
    from lightning_modules.run.compression import calibration_batches

    stage = StaticInt8()
    stage.name = "quantized"
    small = copy.deepcopy(task)
    x = data.example(min(64, len(data.arrays.x)))
    stage.check(small.model, small.preprocess(x[:2]), int(small.task_spec["model"]["num_outputs"]))
    with TemporaryDirectory() as folder:
        context = StageContext(
            task=small,
            state=CompressedState(),
            example=x,
            batches=functools.partial(calibration_batches, data, 0),
            evaluate=_unused_evaluate,
            higher_is_better=True,
            seed=0,
            folder=Path(folder),
            log=lambda values: None,
        )
        stage.begin(context)
        stage.end(context)
    return small.eval()


def _unused_evaluate(model: nn.Module) -> float:
    raise AssertionError("static int8 is chosen by calibration, not by the validation part")
