"""Static int8: what the program computes, how it is calibrated, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torchvision
from torch import Tensor, nn

from lightning_modules.compression.onnx_model import OnnxModel, restore
from lightning_modules.compression.quantization.int8 import StaticInt8, min_mse_range
from lightning_modules.config.errors import UserError

ROOT = Path(__file__).parents[3]


def operators(model: OnnxModel) -> dict[str, int]:
    found: dict[str, int] = {}
    for node in onnx.load_from_string(model.bytes()).graph.node:
        found[node.op_type] = found.get(node.op_type, 0) + 1
    return found


@pytest.mark.parametrize(
    "name",
    [
        "mlp",
        pytest.param("lenet5", marks=pytest.mark.slow),
        "resnet",
        pytest.param("vit", marks=pytest.mark.slow),
        pytest.param("gru", marks=pytest.mark.slow),
    ],
)
def test_every_architecture_is_quantized_and_keeps_its_accuracy(bench: Callable[[str], Any], name: str) -> None:
    made = bench(name)
    dense, parameters = made.accuracy(), sum(p.numel() for p in made.model.parameters())
    made.run(StaticInt8(samples=200), check=False)
    program = made.model
    assert isinstance(program, OnnxModel)
    assert made.accuracy() > dense - 0.04
    assert made.logged["compression/quantized_ops"] > 2
    assert operators(program)["DequantizeLinear"] > 1
    assert made.context.state.steps == [{"do": "onnx", "bytes": program.program.numel()}]
    if name in ("lenet5", "resnet"):  # of the others too much is no weight
        assert program.program.numel() < 1.5 * parameters
    assert str(ROOT).encode() not in program.bytes()


@pytest.mark.slow
@pytest.mark.parametrize("calibration", ["percentile", "entropy", "mse"])
def test_every_calibration_keeps_the_accuracy_and_is_another(bench: Callable[[str], Any], calibration: Any) -> None:
    made, plain = bench("mlp"), bench("mlp")
    dense = made.accuracy()
    plain.run(StaticInt8(samples=120), check=False)
    made.run(StaticInt8(calibration=calibration, samples=120, percentile=99.0), check=False)
    assert made.accuracy() > dense - 0.04
    assert made.model.bytes() != plain.model.bytes()


@pytest.mark.slow
@pytest.mark.parametrize("calibration", ["minmax", "mse"])
def test_pt2e_gives_a_program_too(bench: Callable[[str], Any], calibration: Any) -> None:
    made = bench("convnet")
    dense = made.accuracy()
    made.run(StaticInt8(backend="pt2e", calibration=calibration, samples=100), check=False)
    assert isinstance(made.model, OnnxModel)
    assert operators(made.model)["QuantizeLinear"] > 2
    assert made.accuracy() > dense - 0.04


def test_the_range_of_least_squared_error_clips_what_is_rare() -> None:
    torch.manual_seed(0)
    values = torch.randn(100_000).numpy()
    counts, edges = np.histogram(np.append(values, 40.0), 2048, range=(-40.0, 40.0))
    low, high = min_mse_range(counts, edges, float(values.min()), 40.0)
    assert high < 40.0 and low < 0
    counts, edges = np.histogram(np.linspace(0, 1, 100_000), 2048, range=(-1.0, 1.0))
    assert min_mse_range(counts, edges, 0.0, 1.0) == (0.0, pytest.approx(1.0, abs=0.02))


def test_the_program_follows_masks_and_codebooks_and_takes_their_place(bench: Callable[[str], Any]) -> None:
    made = bench("mlp")
    mask = made.model.head.weight.detach().abs() > 0.05
    made.context.state.masks["head.weight"] = mask
    made.context.state.apply(made.model)
    dense = made.accuracy()
    made.run(StaticInt8(samples=100), check=False)
    assert made.context.state.masks == {} and made.context.state.codebooks == {} and made.context.state.grids == {}
    assert made.accuracy() > dense - 0.04


def test_a_program_that_is_loaded_back_is_the_same(bench: Callable[[str], Any]) -> None:
    made = bench("mlp")
    made.run(StaticInt8(samples=100), check=False)
    x = made.data.val[0]
    loaded = restore(nn.Identity(), made.context.state.steps[-1], x[:1])
    loaded.load_state_dict(made.model.state_dict())
    assert torch.equal(loaded(x), made.model(x))


def test_an_empty_calibration_set_is_refused(bench: Callable[[str], Any]) -> None:
    with pytest.raises(UserError, match="samples=0: expected 1 or more"):
        StaticInt8(samples=0)
    made = bench("mlp")
    made.context = replace(made.context, batches=lambda: iter(()))
    with pytest.raises(UserError, match=r"compression.stages.tested: the calibration set is empty"):
        made.run(StaticInt8())


@pytest.mark.slow
def test_the_calibration_takes_as_many_samples_as_it_is_told(
    bench: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, taken = bench("mlp"), []
    stage = StaticInt8(samples=70)
    program = StaticInt8.program

    def counting(self: Any, model: Any, example: Tensor, batches: list[Tensor]) -> bytes:
        taken.append([len(batch) for batch in batches])
        return program(self, model, example, batches)

    monkeypatch.setattr(StaticInt8, "program", counting)
    made.run(stage)
    assert taken == [[4], [50, 20]]  # the check has the example only


class Inverse(nn.Module):
    """Ends in an operator that no ONNX program has."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(9, 9)

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(self.layer(x).view(-1, 3, 3)).real


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Inverse(), "cannot be exported to ONNX: .*eig"),
        (nn.Softmax(-1), "no weight was quantized"),
    ],
)
def test_what_cannot_be_quantized_is_refused_with_the_reason_and_left_alone(network: nn.Module, message: str) -> None:
    stage = StaticInt8()
    stage.name = "int8"
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(UserError, match=f"compression.stages.int8: .*({message})"):
        stage.check(network, torch.randn(2, 9), 3)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_mistakes_are_named() -> None:
    for settings, message in (
        ({"backend": "onnxrt"}, "backend=onnxrt: did you mean 'onnxruntime'"),
        ({"calibration": "min-max"}, "calibration=min-max: did you mean 'minmax'"),
        ({"percentile": 0.9999}, r"percentile=0.9999: expected a value in \(50, 100\]"),
        ({"backend": "pt2e", "calibration": "entropy"}, "calibration=entropy: backend=pt2e supports minmax and mse"),
    ):
        with pytest.raises(UserError, match=message):
            StaticInt8(**settings)


@pytest.mark.slow
def test_mobilenet_is_quantized(tmp_path: Any, bench: Callable[[str], Any]) -> None:
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v2(num_classes=10, width_mult=0.25).eval()
    stage, x = StaticInt8(), torch.randn(8, 3, 32, 32)
    stage.name = "int8"
    network = stage.build_network(model, x, [x])
    assert operators(network)["QuantizeLinear"] > 50
    assert (network(x) - model(x)).norm() < 0.5 * model(x).norm()
