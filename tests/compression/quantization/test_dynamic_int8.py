"""Dynamic int8: what it does to each architecture, and what it refuses."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from lightning_modules.compression.onnx_model import OnnxModel
from lightning_modules.compression.quantization import onnx_stage
from lightning_modules.compression.quantization.int8 import DynamicInt8, StaticInt8
from lightning_modules.compression.quantization.onnx_stage import cpu_flags, warn_without_vnni
from lightning_modules.compression.quantization.qat import QAT
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


def test_saturating_sums_are_warned_of_on_processors_without_vnni(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"no VNNI.*reduce_range=true"):
        warn_without_vnni({"avx2", "avx512f"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for flags in ({"avx2", "avx_vnni"}, {"avx512f", "avx512_vnni"}, set[str]()):
            warn_without_vnni(flags)
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert cpu_flags(tmp_path / "cpuinfo") == {"fpu", "avx2"} and cpu_flags(tmp_path / "none") == set()


@pytest.mark.slow
@pytest.mark.parametrize("stage", [DynamicInt8, StaticInt8, QAT])
def test_every_stage_warns_unless_its_range_is_reduced(
    bench: Callable[[str], Any], stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_stage, "cpu_flags", lambda: {"avx2"})
    for reduced in (False, True):
        made = bench("mlp")
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            made.run(stage(reduce_range=reduced), check=False)
        assert any("VNNI" in str(warning.message) for warning in found) != reduced
    weights = [numpy_helper.to_array(w) for w in onnx.load_from_string(made.model.bytes()).graph.initializer]
    eight = [weight for weight in weights if weight.dtype == np.int8 and weight.ndim > 1]
    assert eight and all(np.abs(weight.astype(int)).max() <= 64 for weight in eight), "weights of 7 bits"
