"""Half precision: a bfloat16 or float16 network with float32 inputs and outputs."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_modules.compression.compressed_state import Step
from lightning_modules.compression.onnx_model import eval_copy, first_error_line
from lightning_modules.compression.stage import Stage, StageContext
from lightning_modules.config.bounds import bounded
from lightning_modules.model.mlp import CategoryEmbedding

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class HalfPrecision(Stage):
    """Rounds all weights to half precision and computes in it: half the size; whether it is faster is measured.

    Args:
        dtype: ``bf16`` (8 bits of precision, float32's range) or ``fp16`` (11 bits, up to 65504).
    """

    kind = "weight_quantization"
    reported = ("dtype",)

    @bounded
    def __init__(self, dtype: Literal["bf16", "fp16"] = "bf16") -> None:
        super().__init__("after")
        self.dtype = dtype

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        if not any(parameter.dtype == torch.float32 for parameter in model.parameters()):
            raise self.config_error(f"dtype={self.dtype}: the network has no float32 weight")
        embedded = (table for part in model.modules() if isinstance(part, CategoryEmbedding) for table in part.tables)
        count = max((table.num_embeddings for table in embedded if isinstance(table, nn.Embedding)), default=0)
        if count - 1 > (exact := round(2 / torch.finfo(DTYPES[self.dtype]).eps)):
            raise self.config_error(
                f"dtype={self.dtype}: a column has {count} categories, whose numbers are exact up to {exact} only"
            )
        network = to_half_precision(eval_copy(model), DTYPES[self.dtype])
        for name, parameter in network.named_parameters():
            if not parameter.isfinite().all():
                most = torch.finfo(parameter.dtype).max
                raise self.config_error(f"dtype={self.dtype}: {name} has values beyond {most:g}; use bf16")
        try:
            with torch.no_grad():
                logits = network(example.cpu())
        except RuntimeError as error:
            raise self.config_error(
                f"dtype={self.dtype}: the network cannot run in this dtype: {first_error_line(error)}"
            ) from error
        if not logits.isfinite().all():
            raise self.config_error(f"dtype={self.dtype}: the network's outputs are not finite; use bf16")

    def begin(self, context: StageContext) -> None:
        self.check(context.model, context.preprocess(context.example), 0)
        to_half_precision(context.model, DTYPES[self.dtype])
        context.state.steps.append({"do": "half", "dtype": self.dtype})


def restore(model: nn.Module, step: Step, example: Tensor) -> nn.Module:
    """Convert a network built from its config to the step's dtype."""
    return to_half_precision(model, DTYPES[step["dtype"]])


@dataclass(frozen=True)
class _CastHooks:
    """Hooks that cast a network's inputs to `dtype` and its outputs to float32."""

    dtype: torch.dtype

    def inputs(self, module: nn.Module, inputs: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(x.to(self.dtype) if isinstance(x, Tensor) else x for x in inputs)

    def outputs(self, module: nn.Module, inputs: tuple[object, ...], outputs: Tensor) -> Tensor:
        return outputs.float()


def to_half_precision(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Convert the model in place, with hooks that cast inputs and outputs, so that parameter names do not change."""
    model.to(dtype)
    cast = _CastHooks(dtype)
    model.register_forward_pre_hook(cast.inputs)
    model.register_forward_hook(cast.outputs)
    return model
