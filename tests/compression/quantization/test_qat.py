"""Quantization-aware training: the trainable network, its masks, its modes, and the program at its end."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.compression.onnx_model import OnnxModel
from lightning_modules.compression.quantization.pt2e import QATGraph, prepare_qat
from lightning_modules.compression.quantization.qat import QAT
from lightning_modules.config.errors import UserError
from lightning_modules.model.mlp import MLP

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("lenet5", "resnet")]


def fine_tune(made: Any, stage: QAT, steps: int = 40) -> None:
    """What the keeper does around every step."""
    optimizer = torch.optim.Adam(made.model.parameters(), lr=1e-3)
    batches = made.context.batches()
    for step in range(steps):
        batch = next(batches, None) or next(batches := made.context.batches())
        made.model.train()
        optimizer.zero_grad()
        F.cross_entropy(made.model(batch["x"]), batch["y"]).backward()
        stage.before_step(made.context, step, steps)
        optimizer.step()
        stage.after_step(made.context, step, steps)
        made.context.state.apply(made.model)


def small() -> tuple[MLP, Tensor]:
    torch.manual_seed(0)
    return MLP((1, 4, 4), 3, hidden=[8], dropout=0.5), torch.randn(6, 1, 4, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "convnet", "vit", *SLOW])
def test_every_architecture_is_trained_and_ends_as_a_program(bench: Callable[[str], Any], name: str) -> None:
    made = bench(name)
    dense, names = made.accuracy(), dict(made.model.named_parameters()).keys()
    stage = QAT(samples=100)
    stage.name = "qat"
    stage.begin(made.context)
    assert isinstance(made.model, QATGraph)
    assert dict(made.model.named_parameters()).keys() == names
    fine_tune(made, stage)
    stage.end(made.context)
    assert isinstance(made.model, OnnxModel)
    assert made.accuracy() > dense - 0.04
    assert made.logged["compression/quantized_ops"] > 2
    assert made.context.state.steps == [{"do": "onnx", "bytes": made.model.program.numel()}]


@pytest.mark.slow
def test_the_program_holds_the_trained_weights(bench: Callable[[str], Any]) -> None:
    made = bench("mlp")
    stage = QAT(samples=50)
    stage.name = "qat"
    stage.begin(made.context)
    parameters = dict(made.model.named_parameters())
    nn.init.zeros_(parameters["head.weight"])
    nn.init.constant_(parameters["head.bias"], 3.0)
    stage.end(made.context)
    assert torch.allclose(made.model(made.data.val[0]), torch.tensor(3.0), atol=0.05)


@pytest.mark.parametrize("name", ["mlp", pytest.param("convnet", marks=pytest.mark.slow)])
def test_the_pt2e_program_is_the_network_that_was_trained(bench: Callable[[str], Any], name: str) -> None:
    made = bench(name)
    stage = QAT(
        backend="pt2e", samples=50, reduce_range=True
    )  # 7 bits: int8 products of 8 overflow on CPUs without VNNI
    stage.name = "qat"
    stage.begin(made.context)
    fine_tune(made, stage, 30)
    made.model.eval()
    x = made.data.val[0]
    with torch.no_grad():
        trained = made.model(x)
    stage.end(made.context)
    assert (made.model(x).argmax(1) == trained.argmax(1)).float().mean() > 0.97
    assert (made.model(x) - trained).norm() < 0.05 * trained.norm()


def test_masks_of_an_earlier_pruning_stay_in_force(bench: Callable[[str], Any]) -> None:
    made = bench("lenet5")
    weights = {name: p.detach() for name, p in made.model.named_parameters() if p.ndim > 1}
    for name, weight in weights.items():
        made.context.state.masks[name] = weight.abs() > weight.abs().median()
    made.context.state.apply(made.model)
    stage = QAT(samples=50)
    stage.name = "qat"
    stage.begin(made.context)
    fine_tune(made, stage, 10)
    for name, parameter in made.model.named_parameters():
        if name in weights:
            kept = made.context.state.masks[name]
            assert not parameter[~kept].any()
            assert not torch.equal(parameter[kept], weights[name][kept])  # the others were trained


def test_the_mode_follows_the_flag_however_it_was_set() -> None:
    model, x = small()
    network = prepare_qat(model, x)
    assert not torch.equal(network(x), network(x))  # dropout
    network.eval()
    assert torch.equal(network(x), network(x))
    for module in network.modules():  # as Lightning restores it after validation
        module.training = True
    assert not torch.equal(network(x), network(x))


def test_ranges_are_observed_in_training_only_and_not_once_frozen() -> None:
    model, x = small()
    network = prepare_qat(model, x)
    network.observe(x)

    def scales() -> Tensor:
        return torch.cat([b.flatten() for name, b in network.named_buffers() if name.endswith("scale")])

    before = scales().clone()
    network.eval()(x * 100)
    assert torch.equal(scales(), before)
    network.train()(x * 100)
    assert not torch.equal(scales(), before)
    network.freeze()
    before = scales().clone()
    network(x * 1000)
    assert torch.equal(scales(), before)


def test_observers_freeze_after_their_part_of_the_steps(bench: Callable[[str], Any]) -> None:
    made = bench("mlp")
    stage = QAT(freeze=0.5)
    stage.name = "qat"
    stage.begin(made.context)
    stage.after_step(made.context, 3, 10)
    assert not made.model.observers_frozen
    stage.after_step(made.context, 4, 10)
    assert made.model.observers_frozen


@pytest.mark.slow
def test_batch_norm_learns_in_training_and_rests_in_evaluation(bench: Callable[[str], Any]) -> None:
    made = bench("convnet")
    network = prepare_qat(made.model, made.context.example)
    network.observe(made.context.example)
    [name] = [name for name, _ in network.named_buffers() if name.endswith("running_mean")]
    mean = network.get_buffer(name)
    before = mean.clone()
    network.eval()(made.context.example)
    assert torch.equal(mean, before)
    network.train()(made.context.example)
    assert not torch.equal(network.get_buffer(name), before)


@pytest.mark.slow
def test_an_epsilon_and_a_momentum_of_its_own_survive_the_change_of_mode() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, eps=0.5, momentum=0.01), nn.ReLU(), nn.Flatten())
    x = torch.randn(8, 1, 5, 5)
    network = prepare_qat(model, x)
    network.eval()(x)
    network.train()(x)
    model.train()(x)
    assert torch.allclose(network.get_buffer("1.running_mean"), model[1].running_mean, atol=1e-3)
    assert float(network.get_buffer("1.running_mean").abs().max()) > 0


def test_a_copy_is_a_network_of_its_own() -> None:
    model, x = small()
    network = prepare_qat(model, x).eval()
    network.observe(x)
    network.freeze()
    other = copy.deepcopy(network)
    assert torch.equal(other(x), network(x)) and other.observers_frozen
    nn.init.zeros_(dict(other.named_parameters())["head.weight"])
    assert not torch.equal(other(x), network(x))


@pytest.mark.slow
def test_a_resumed_stage_goes_on_bit_for_bit(bench: Callable[[str], Any], learnt: Callable[[str], Any]) -> None:
    def begun() -> tuple[Any, QAT]:
        made, stage = bench("convnet"), QAT(samples=50)
        stage.name = "qat"
        return made, stage

    made, stage = begun()
    stage.begin(made.context)
    fine_tune(made, stage, 3)
    state = copy.deepcopy(made.model.state_dict())
    other, again = begun()
    again.restore_network(other.context)
    other.model.load_state_dict(state)
    for each, its in ((made, stage), (other, again)):
        fine_tune(each, its, 3)
    assert all(
        torch.equal(a, b)
        for a, b in zip(made.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    )


def test_the_network_it_checks_is_left_alone(bench: Callable[[str], Any]) -> None:
    made = bench("mlp")
    before = {key: value.clone() for key, value in made.model.state_dict().items()}
    made.model.train()
    stage = QAT()
    stage.name = "qat"
    stage.check(made.model, made.context.example, 10)
    assert isinstance(made.model, MLP) and made.model.training
    assert all(torch.equal(value, before[key]) for key, value in made.model.state_dict().items())


@pytest.mark.filterwarnings("ignore:Using padding")
def test_what_cannot_be_trained_in_int8_is_refused_with_the_reason(bench: Callable[[str], Any]) -> None:
    stage = QAT()
    stage.name = "qat"
    made = bench("gru")
    with pytest.raises(UserError, match=r"compression.stages.qat: gru is a GRU, which torchao cannot train in int8"):
        stage.check(made.model, made.context.example, 10)
    even = nn.Sequential(nn.Conv2d(1, 2, 4, padding="same"), nn.Flatten())
    with pytest.raises(UserError, match=r"compression.stages.qat: torchao cannot prepare the network: .*conv2d"):
        stage.check(even, torch.randn(2, 1, 4, 4), 32)
    with pytest.raises(UserError, match=r"compression.stages.qat: nothing to quantize"):
        stage.check(nn.Softmax(-1), torch.randn(2, 4), 4)
    for settings, message in (
        ({"epochs": 0}, "epochs=0: expected 1 or more"),
        ({"freeze": 0}, "freeze=0"),
        ({"samples": 0}, "samples=0"),
        ({"backend": "torch"}, "backend=torch: choose one of: onnxruntime, pt2e"),
    ):
        with pytest.raises(UserError, match=message):
            QAT(**settings)
