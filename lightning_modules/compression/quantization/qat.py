"""Quantization-aware training: fine-tuning with the rounding of int8 in the forward pass (Jacob et al. 2018, section 3)."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.compression.onnx_model import reason, to_onnx
from lightning_modules.compression.quantization.prepared import Prepared, converted, prepared
from lightning_modules.compression.quantization.program import ProgramStage, calibration_batches
from lightning_modules.compression.quantization.pt2e import to_program
from lightning_modules.compression.quantization.static import Backend, check_backend, static_program
from lightning_modules.compression.stage import Work
from lightning_modules.errors import UserError

FIRST_SAMPLES = 128  # that set the ranges before the first step


class QAT(ProgramStage):
    """Fine-tunes the network with fake quantization (torchao), then makes it an int8 program.

    Masks of an earlier stage stay in force: the parameters keep their names. Under DDP the observers' ranges are those of
    the first process, which DDP hands to all before each step.

    Args:
        epochs: of fine-tuning, at least 1.
        freeze: the part of the steps after which ranges are observed no more.
        backend: of the program. ``onnxruntime``: the trained weights, quantized by ONNX Runtime with ranges from
            `samples`, everything in int8 that it has in int8, for speed; ``pt2e``: the very network that was trained,
            whose additions are of floats.
        samples: of the training part, for calibration.
        reduce_range: see `static.StaticInt8`.
    """

    def __init__(
        self,
        epochs: int = 2,
        lr: float | None = None,
        freeze: float = 0.75,
        backend: Backend = "onnxruntime",
        samples: int = 512,
        reduce_range: bool = False,
    ) -> None:
        super().__init__("after", epochs, lr)
        if epochs < 1:
            raise UserError("compression: epochs=0: this stage trains; without training it is compression=int8_static")
        if not 0 < freeze <= 1:
            raise UserError(f"compression: freeze={freeze}: it must lie in (0, 1]")
        if samples < 1:
            raise UserError(f"compression: samples={samples}: the calibration set is empty; it needs at least 1")
        check_backend(backend)
        self.freeze, self.backend, self.samples, self.reduce_range = freeze, backend, samples, reduce_range
        self.original: nn.Module | None = None

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        self._prepared(model, example.cpu())

    def _prepared(self, model: nn.Module, example: Tensor) -> Prepared:
        for name, module in model.named_modules():
            if isinstance(module, nn.RNNBase):
                kind = type(module).__name__
                raise self.mistake(
                    f"{name} is a {kind}, which torchao cannot train in int8: use compression=int8_dynamic"
                )
        try:
            return prepared(model, example, self.reduce_range)
        except UserError as error:
            raise self.mistake(str(error)) from error
        except Exception as error:  # of torchao, which has no errors of its own
            raise self.mistake(f"torchao cannot prepare the network: {reason(error)}") from error

    def reopen(self, work: Work) -> None:
        """Put the trainable network in the place of the one it is made from."""
        self.original = deepcopy(work.model).cpu()
        example = work.floats(work.example).cpu()
        network = self._prepared(self.original, example)
        network.observe(example)  # gives every observer its shape
        work.task.model = network

    def begin(self, work: Work) -> None:
        samples = torch.cat(calibration_batches(self, work, FIRST_SAMPLES))
        self.original = deepcopy(work.model).cpu()
        work.task.model = self._prepared(self.original, work.floats(work.example).cpu())
        work.task.model.observe(samples)

    def after_step(self, work: Work, step: int, total: int) -> None:
        if step + 1 >= self.freeze * total:
            work.task.model.freeze()

    def end(self, work: Work) -> None:
        batches = calibration_batches(self, work, self.samples)
        self.install(work, self.runnable(work.model, work.floats(work.example), batches))
        self.original = None

    def program(self, model: nn.Module, example: Tensor, batches: Sequence[Tensor]) -> bytes:
        assert isinstance(model, Prepared) and self.original is not None
        if self.backend == "pt2e":
            return to_program(converted(model), example)
        own = self.original.state_dict()
        trained = model.state_dict()
        self.original.load_state_dict({name: trained[name] for name in own})
        return static_program(to_onnx(self.original, example), batches, "minmax", reduce_range=self.reduce_range)

    def settings(self) -> dict[str, Any]:
        return {"backend": self.backend, "epochs": self.epochs, "freeze": self.freeze}
