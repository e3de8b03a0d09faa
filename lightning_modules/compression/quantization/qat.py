"""Quantization-aware training (QAT): fine-tunes with int8 rounding in the forward pass (Jacob et al. 2018, section 3)."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor, nn

from lightning_modules.compression.onnx_model import first_error_line, to_onnx
from lightning_modules.compression.quantization.int8 import Backend, quantize_static
from lightning_modules.compression.quantization.onnx_stage import OnnxStage, calibration_samples
from lightning_modules.compression.quantization.pt2e import QATGraph, convert_to_int8, graph_to_onnx, prepare_qat
from lightning_modules.compression.stage import StageContext
from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError

INITIAL_RANGE_SAMPLES = 128  # number of samples that set the ranges before the first step


class QAT(OnnxStage):
    """Fine-tunes the network with fake quantization (torchao), then converts it to int8.

    Masks of an earlier stage still apply, since parameters keep their names. Under DDP the observers' ranges are those
    of rank 0, which DDP broadcasts before each step.

    Args:
        epochs: of fine-tuning, at least 1.
        freeze: the fraction of the steps after which ranges are no longer observed.
        backend: ``onnxruntime``: ONNX Runtime quantizes the trained weights, with ranges from `samples`, and runs every
            operator it supports in int8, for speed; ``pt2e``: exactly the trained network, with additions in float.
        samples: number of training samples for calibration.
        reduce_range: see `StaticInt8`.
    """

    reported = ("backend", "epochs", "freeze")

    @bounded
    def __init__(
        self,
        epochs: Count = 2,
        lr: float | None = None,
        freeze: Annotated[float, Gt(0), Le(1)] = 0.75,
        backend: Backend = "onnxruntime",
        samples: Count = 512,
        reduce_range: bool = False,
    ) -> None:
        super().__init__("after", epochs, lr)
        self.freeze, self.backend, self.samples, self.reduce_range = freeze, backend, samples, reduce_range
        self.original: nn.Module | None = None

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        self._prepared(model, example.cpu())

    def _prepared(self, model: nn.Module, example: Tensor) -> QATGraph:
        for name, module in model.named_modules():
            if isinstance(module, nn.RNNBase):
                kind = type(module).__name__
                raise self.config_error(
                    f"{name} is a {kind}, which torchao cannot train in int8; use compression=int8_dynamic"
                )
        try:
            return prepare_qat(model, example, self.reduce_range)
        except UserError as error:
            raise self.config_error(str(error)) from error
        except Exception as error:  # torchao has no exception class of its own
            raise self.config_error(f"torchao cannot prepare the network: {first_error_line(error)}") from error

    def restore_network(self, context: StageContext) -> None:
        """Replace the network by a trainable graph, whose weights are loaded afterwards."""
        self._make_trainable(context, context.preprocess(context.example).cpu())  # sets the shape of every observer

    def begin(self, context: StageContext) -> None:
        self._make_trainable(context, torch.cat(calibration_samples(self, context, INITIAL_RANGE_SAMPLES)))

    def _make_trainable(self, context: StageContext, observed: Tensor) -> None:
        self.original = deepcopy(context.model).cpu()
        network = self._prepared(self.original, context.preprocess(context.example).cpu())
        network.observe(observed)
        context.model = network

    def after_step(self, context: StageContext, step: int, total: int) -> None:
        if step + 1 >= self.freeze * total:
            assert isinstance(context.model, QATGraph)
            context.model.freeze()

    def end(self, context: StageContext) -> None:
        self.convert(context)
        self.original = None

    def program(self, model: nn.Module, example: Tensor, batches: Sequence[Tensor]) -> bytes:
        assert isinstance(model, QATGraph) and self.original is not None
        if self.backend == "pt2e":
            return graph_to_onnx(convert_to_int8(model), example)
        own = self.original.state_dict()
        trained = model.state_dict()
        self.original.load_state_dict({name: trained[name] for name in own})
        return quantize_static(to_onnx(self.original, example), batches, "minmax", reduce_range=self.reduce_range)
