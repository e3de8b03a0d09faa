"""Low rank: pairs of layers in place of one, by energy or budget."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from handmade import work_on
from torch import nn

from lightning_modules.compression.profiling import count_macs, count_params
from lightning_modules.compression.stage import StageContext
from lightning_modules.compression.structured.low_rank import LowRankFactorization, max_useful_rank, restore, svd
from lightning_modules.config.errors import UserError
from lightning_modules.model.mlp import MLP
from lightning_modules.zoo.model.convnets import CifarResNet, LeNet5
from lightning_modules.zoo.model.time_series import MNIST1DCNN, MNIST1DGRU
from lightning_modules.zoo.model.vit import ViT

DIGIT, SMALL = (1, 8, 8), (3, 32, 32)
slow = pytest.mark.slow
NETWORKS: list[Any] = [
    pytest.param(lambda: MLP(DIGIT, 10), DIGIT, id="mlp"),
    pytest.param(lambda: LeNet5((1, 16, 16), 10), (1, 16, 16), id="lenet5"),
    pytest.param(lambda: CifarResNet(DIGIT, 10, depth=20), DIGIT, id="resnet20", marks=slow),
    pytest.param(lambda: CifarResNet(DIGIT, 10, depth=8), DIGIT, id="resnet8"),
    pytest.param(lambda: ViT(DIGIT, 10, depth=2), DIGIT, id="vit"),
    pytest.param(lambda: MNIST1DCNN((40,), 10), (40,), id="mnist1d_cnn"),
    *(
        pytest.param(lambda name=name: torchvision.models.get_model(name, num_classes=10), SMALL, id=name, marks=slow)
        for name in ("resnet18", "mobilenet_v2")
    ),
]


def reduced(network: nn.Module, shape: tuple[int, ...], folder: Path, **arguments: Any) -> StageContext:
    stage = LowRankFactorization(**arguments)
    stage.name = "low_rank"
    context = work_on(network, shape, folder)
    stage.check(network, context.example[:2], 10)
    stage.begin(context)
    return context


@pytest.mark.parametrize(("make", "shape"), NETWORKS)
def test_macs_fall_to_the_budget_and_the_record_builds_the_pairs_again(
    make: Callable[[], nn.Module], shape: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = make()
    dense = copy.deepcopy(network)
    context = reduced(network, shape, tmp_path, macs_ratio=0.6)
    assert 0.5 < count_macs(context.model, context.example) / count_macs(dense, context.example) <= 0.6
    assert count_params(context.model) < count_params(dense)
    (step,) = context.state.steps
    again = restore(make(), json.loads(json.dumps(step)), context.example[:1])
    again.load_state_dict(context.model.state_dict(), strict=True)
    assert torch.equal(again.eval()(context.example), context.model.eval()(context.example))
    loss = nn.functional.cross_entropy(again.train()(context.example), torch.arange(8))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in again.parameters())


@slow
def test_the_convolutions_of_vgg_become_pairs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.vgg11_bn(num_classes=10)
    reduced(network, SMALL, tmp_path, energy=0.5, exclude=["classifier.*"])
    assert isinstance(network.features[8], nn.Sequential) and isinstance(network.classifier[0], nn.Linear)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(30, 20),
        nn.Conv2d(6, 12, 3, stride=2, padding=1),
        nn.Conv2d(6, 12, (3, 5), padding="same", dilation=2, bias=False),
        nn.Conv1d(6, 12, 3, padding=2),
    ],
    ids=["linear", "strided", "dilated", "series"],
)
def test_a_layer_of_low_rank_is_replaced_without_a_difference(layer: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        u, values, v = svd(layer.weight)
        values[3:] = 0
        layer.weight.copy_((u * values @ v).view_as(layer.weight))
    shape = (30,) if isinstance(layer, nn.Linear) else (6, 9, 9)[: layer.weight.ndim - 1]
    network = nn.Sequential(layer, nn.Flatten())
    x = torch.randn(4, *shape)
    before = network(x)
    context = reduced(network, shape, tmp_path, energy=0.99999)
    assert context.state.steps == [{"do": "low_rank", "ranks": {"0": 3}}]
    assert count_params(network) < before.new_tensor(layer.weight.numel())
    assert (network(x) - before).abs().max() < 1e-5


def test_the_kept_energy_is_the_one_asked_for(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network: Any = MLP(DIGIT, 10, hidden=[100])
    weight = network.hidden[0].weight.detach().double()
    reduced(network, DIGIT, tmp_path, energy=0.7)
    first, second = network.hidden[0]
    error = (
        second.weight.detach().double() @ first.weight.detach().double() - weight
    ).square().sum() / weight.square().sum()
    values = torch.linalg.svdvals(weight).square()
    rank = first.out_features
    assert error == pytest.approx(float(values[rank:].sum() / values.sum()), rel=1e-3)
    assert error <= 0.3 < float(values[rank - 1 :].sum() / values.sum())


def test_a_layer_that_a_pair_would_not_make_smaller_stays(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = LeNet5((1, 16, 16), 10)
    context = reduced(network, (1, 16, 16), tmp_path, energy=0.9)
    for name, rank in context.state.steps[0]["ranks"].items():
        assert rank <= max_useful_rank(LeNet5((1, 16, 16), 10).get_submodule(name))
    assert isinstance(network.features[0], nn.Conv2d)  # [20, 25], of rank 20 in all but name


def test_frozen_weights_and_layers_that_are_excluded_stay_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network: Any = MLP(DIGIT, 10)
    network.hidden[1].requires_grad_(False)
    reduced(network, DIGIT, tmp_path, energy=0.5, exclude=["hidden.0"])
    assert isinstance(network.hidden[0], nn.Linear)
    assert not any(p.requires_grad for p in network.hidden[1].parameters())


def test_the_head_of_a_recurrent_network_may_be_reduced_its_gates_not(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = MNIST1DGRU((40,), 10)
    context = reduced(network, (40,), tmp_path, energy=0.5)
    assert list(context.state.steps[0]["ranks"]) == ["head"] and isinstance(network.gru, nn.GRU)
    with pytest.raises(UserError, match="no linear layer or convolution would be smaller"):
        LowRankFactorization(energy=0.5, exclude=["head"]).check(MNIST1DGRU((40,), 10), context.example[:2], 10)


def test_torchs_own_attention_stays(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(32, 8, 1, 4, 32, 64, num_classes=10)
    context = reduced(network, SMALL, tmp_path, energy=0.5)
    assert not any("attention" in name for name in context.state.steps[0]["ranks"])


def test_layers_whose_weights_the_network_reads_are_named_and_can_be_left_out() -> None:
    network = torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [1, 2], [2, 2], num_classes=10)
    x = torch.randn(2, *SMALL)
    with pytest.raises(UserError, match=r"accesses the weights of layers .*exclude=\[\*\.qkv, \*\.proj\]$"):
        LowRankFactorization(energy=0.5).check(network, x, 10)
    LowRankFactorization(energy=0.5, exclude=["*.qkv", "*.proj"]).check(network, x, 10)


def test_what_was_saved_is_logged_and_recorded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    logged: dict[str, float] = {}
    context = work_on(MLP(DIGIT, 10), DIGIT, tmp_path, logged)
    stage, other = LowRankFactorization(params_ratio=0.5), LowRankFactorization(params_ratio=0.5)
    stage.name = "thin"
    stage.begin(context)
    assert 0.4 < logged["compression/thin/reached_params_ratio"] <= 0.5
    other.load_state_dict(stage.state_dict())
    assert other.settings() == stage.settings() and stage.settings()["ranks"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"energy": 1.0}, r"energy=1.0: expected a value in \(0, 1\)"),
        ({}, "one of energy, macs_ratio, params_ratio"),
        ({"energy": 0.9, "macs_ratio": 0.5}, "one of energy, macs_ratio, params_ratio"),
        ({"energy": 0.9, "when": "always"}, "choose one of: after"),
    ],
)
def test_senseless_arguments_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LowRankFactorization(**arguments)


def test_what_cannot_work_is_refused_with_the_reason(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, x = MLP(DIGIT, 10), torch.randn(2, *DIGIT)
    with pytest.raises(UserError, match=r"did you mean 'hidden\.0'"):
        LowRankFactorization(energy=0.5, layers=["hiden.0"]).check(network, x, 10)
    with pytest.raises(UserError, match=r"macs_ratio=0.01 cannot be met: the smallest reachable ratio is 0.0"):
        LowRankFactorization(macs_ratio=0.01).check(network, x, 10)
    with pytest.raises(UserError, match="nothing was saved"):
        LowRankFactorization(energy=0.9999).begin(work_on(network, DIGIT, tmp_path))
