"""Dynamic int8: what it does to each architecture, and what it refuses."""

from collections.abc import Callable
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from lightning_modules.compression.onnx_model import OnnxModel
from lightning_modules.compression.quantization.int8 import DynamicInt8
from lightning_modules.config.errors import UserError


@pytest.mark.parametrize(
    "name",
    [
        "mlp",
        pytest.param("lenet5", marks=pytest.mark.slow),
        pytest.param("resnet", marks=pytest.mark.slow),
        pytest.param("vit", marks=pytest.mark.slow),
        pytest.param("gru", marks=pytest.mark.slow),
    ],
)
def test_every_architecture_is_quantized_and_keeps_its_accuracy(bench: Callable[[str], Any], name: str) -> None:
    made = bench(name)
    dense = made.accuracy()
    made.run(DynamicInt8(), check=False)
    assert isinstance(made.model, OnnxModel)
    assert made.accuracy() > dense - 0.04
    nodes = [node.op_type for node in onnx.load_from_string(made.model.bytes()).graph.node]
    assert any(node.endswith("Integer") for node in nodes)
    assert made.logged["compression/quantized_ops"] >= 2
    assert ("GRU" in nodes) == (name == "gru")
    assert made.context.state.steps == [{"do": "onnx", "bytes": made.model.program.numel()}]


class OnlyRecurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x)[0][:, -1]


def test_a_network_of_which_nothing_is_quantized_is_refused() -> None:
    stage = DynamicInt8()
    stage.name = "int8"
    with pytest.raises(UserError, match=r"compression.stages.int8: no weight was quantized"):
        stage.check(OnlyRecurrent(), torch.randn(2, 5, 4), 3)
