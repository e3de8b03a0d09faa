"""Architecture steps: plain values that describe how stages changed a network, from which it can be rebuilt.

A step is ``{"do": name, …}``; `RESTORE_FUNCTIONS` names the function that repeats it, ``(model, step, example) -> model``
with `example` floats [1, *input_shape]. Weights are loaded afterwards, so a step restores shapes and layers only.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from lightning_modules.config.errors import UserError

RestoreFunction = Callable[[nn.Module, dict[str, Any], Tensor], nn.Module]
# Named, not imported, so that optional libraries are imported only when they are needed.
RESTORE_FUNCTIONS = {
    "channels": "lightning_modules.compression.structured.structured_pruning:restore",
    "low_rank": "lightning_modules.compression.structured.low_rank:restore",
    "fold": "lightning_modules.compression.structured.batch_norm_folding:restore",
    "half": "lightning_modules.compression.quantization.half_precision:restore",
    "onnx": "lightning_modules.compression.onnx_model:restore",
}


def apply_steps(model: nn.Module, steps: Sequence[dict[str, Any]], example: Tensor) -> nn.Module:
    """Apply all steps to a network built from its config. Raises UserError for an unknown step."""
    for step in steps:
        if step.get("do") not in RESTORE_FUNCTIONS:
            raise UserError(f"the compressed model contains the unknown step '{step.get('do')}'; update Touchstone")
        module, _, function = RESTORE_FUNCTIONS[step["do"]].partition(":")
        restore: RestoreFunction = getattr(import_module(module), function)
        model = restore(model, step, example)
    return model
