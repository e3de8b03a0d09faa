"""A task as one program, from raw samples to scores, as torch's exporter gives it."""

import torch
from torch import Tensor, nn

from lightning_modules.compression.onnx_model import eval_copy, first_error_line, silence_output
from lightning_modules.config.errors import UserError
from lightning_modules.task.supervised import Supervised


class ScoringModel(nn.Module):
    """Raw samples [B, *input_shape] -> probabilities or values, as the served model gives them."""

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
        return self.scores(outputs).clone()  # a program that gives back its input would have no step


def trace(module: nn.Module, x: Tensor) -> torch.export.ExportedProgram:
    """The module in evaluation mode on the CPU as an exported program, its first dimension free.

    Args:
        x: [N, …] with N of 2 or more: one sample would be taken for a constant.

    Raises UserError with the exporter's reason.
    """
    try:
        with silence_output(), torch.no_grad():
            copy = eval_copy(module)
            return torch.export.export(copy, (x.cpu(),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    except Exception as error:  # it raises classes of many packages
        raise UserError(f"the network cannot be exported: {first_error_line(error)}") from error
