"""Traces a task from raw samples to scores with torch.export."""

import torch
from torch import Tensor, nn

from lightning_modules.compression.onnx_model import eval_copy, first_error_line, silence_output
from lightning_modules.config.errors import UserError
from lightning_modules.task.supervised import Supervised


class ScoringModel(nn.Module):
    """Raw samples [B, *input_shape] -> probabilities or values, like the served model."""

    def __init__(self, task: Supervised) -> None:
        super().__init__()
        self.preprocess, self.model, self.scores = task.preprocess, task.model, task.scores

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.model(self.preprocess(x)))


class ScoreHead(nn.Module):
    """Outputs [B, num_outputs] -> probabilities or values."""

    def __init__(self, task: Supervised) -> None:
        super().__init__()
        self.scores = task.scores

    def forward(self, outputs: Tensor) -> Tensor:
        return self.scores(outputs).clone()  # a graph that returns its input would have no nodes


def trace(module: nn.Module, x: Tensor) -> torch.export.ExportedProgram:
    """The module in evaluation mode on the CPU as an exported program with a dynamic batch size.

    Args:
        x: [N, …] with N >= 2: a batch size of 1 would be exported as a constant.

    Raises UserError with the exporter's reason.
    """
    try:
        with silence_output(), torch.no_grad():
            copy = eval_copy(module)
            return torch.export.export(copy, (x.cpu(),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    except Exception as error:  # exporters raise exceptions of many packages
        raise UserError(f"the network cannot be exported: {first_error_line(error)}") from error
