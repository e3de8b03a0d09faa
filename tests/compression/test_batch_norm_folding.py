"""Folding: batch norms become part of the layers before them, and the outputs stay."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from handmade import work_on
from torch import Tensor, nn

from lightning_modules.compression.structured.batch_norm_folding import FoldBatchNorm, find_foldable_pairs, restore
from lightning_modules.config.errors import UserError
from lightning_modules.model.mlp import MLP
from lightning_modules.zoo.model.convnets import CifarResNet, ConvNet, LeNet5
from lightning_modules.zoo.model.time_series import MNIST1DGRU
from lightning_modules.zoo.model.vit import ViT

DIGIT, SMALL = (1, 8, 8), (3, 32, 32)
slow = pytest.mark.slow


class Dense(nn.Module):
    """Linear, batch norm, and a residual read before its batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Linear(64, 16, bias=False), nn.BatchNorm1d(16)
        self.second, self.norm2 = nn.Linear(16, 16), nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(self.first(x.flatten(1))).relu()
        early = self.second(h)
        return self.head(self.norm2(early).relu() + early)


class Transposed(nn.Module):
    """A transposed convolution before a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm = nn.ConvTranspose2d(1, 4, 2, stride=2), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.up(x)).mean((2, 3)))


NETWORKS: list[Any] = [
    pytest.param(lambda: ConvNet(DIGIT, 10), DIGIT, 4, 0, id="convnet"),
    pytest.param(lambda: CifarResNet(DIGIT, 10, depth=20), DIGIT, 19, 0, id="resnet20"),
    pytest.param(Dense, DIGIT, 1, 1, id="linear"),
    pytest.param(Transposed, DIGIT, 1, 0, id="transposed"),
    *(
        pytest.param(lambda name=name: torchvision.models.get_model(name, num_classes=10), SMALL, *counts, id=name, marks=slow)
        for name, counts in (("resnet18", (20, 0)), ("vgg11_bn", (8, 0)), ("mobilenet_v2", (52, 0)), ("densenet121", (59, 62)))
    ),
]  # fmt: skip


def norms(network: nn.Module) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def trained(make: Callable[[], nn.Module]) -> nn.Module:
    """With statistics and factors that are not those of a fresh batch norm."""
    torch.manual_seed(0)
    network = make()
    for norm in norms(network):
        norm.running_mean.normal_(std=0.5)
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.5)
    return network


@pytest.mark.parametrize(("make", "shape", "folded", "left"), NETWORKS)
def test_outputs_stay_and_the_record_builds_the_structure_again(
    make: Callable[[], nn.Module], shape: tuple[int, ...], folded: int, left: int, tmp_path: Path
) -> None:
    network, logged = trained(make), dict[str, float]()
    stage, context = FoldBatchNorm(), work_on(network, shape, tmp_path, logged)
    stage.name = "fold"
    before = network.eval()(context.example).detach()
    stage.check(network, context.example[:2], 10)
    assert len(norms(network)) == folded + left
    stage.begin(context)
    after = context.model.eval()(context.example)
    assert len(norms(context.model)) == left and logged["compression/fold/folded"] == folded
    assert (after - before).abs().max() <= 1e-4 * max(1.0, float(before.abs().max()))
    (step,) = context.state.steps
    again = restore(make(), json.loads(json.dumps(step)), context.example[:1])
    again.load_state_dict(context.model.state_dict(), strict=True)
    assert torch.equal(again.eval()(context.example), after)
    nn.functional.cross_entropy(again.train()(context.example), torch.arange(8)).backward()
    assert all(p.grad is not None for p in again.parameters())


def test_a_layer_whose_output_is_read_elsewhere_too_keeps_its_batch_norm() -> None:
    assert find_foldable_pairs(trained(Dense), torch.randn(2, *DIGIT)) == [("first", "norm1")]


def test_a_layer_that_is_used_twice_keeps_its_batch_norm() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.norm(self.layer(x)))

    assert find_foldable_pairs(Twice(), torch.randn(2, 8)) == []


def test_frozen_layers_are_found_and_stay_frozen(tmp_path: Path) -> None:
    network = trained(lambda: ConvNet(DIGIT, 10)).requires_grad_(False)
    stage = FoldBatchNorm()
    stage.begin(work_on(network, DIGIT, tmp_path))
    assert stage.settings() == {"folded": 4}
    assert not any(p.requires_grad for p in network.parameters())


def test_outputs_that_would_change_are_refused(tmp_path: Path) -> None:
    class Moody(ConvNet):
        """Its outputs depend on whether it has batch norms."""

        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) + len(norms(self))

    stage = FoldBatchNorm()
    stage.name = "fold"
    with pytest.raises(UserError, match=r"compression.stages.fold: the outputs changed by"):
        stage.begin(work_on(trained(lambda: Moody(DIGIT, 10)), DIGIT, tmp_path))


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (MLP(DIGIT, 10), DIGIT),
        (LeNet5((1, 16, 16), 10), (1, 16, 16)),
        (ViT(DIGIT, 10, depth=1), DIGIT),
        (MNIST1DGRU((40,), 10), (40,)),
    ],
    ids=["mlp", "lenet5", "vit", "gru"],
)
def test_a_network_without_a_batch_norm_is_refused_before_training(network: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="none of the network's 0 batch norms"):
        FoldBatchNorm().check(network, torch.randn(2, *shape), 10)


def test_folding_within_a_fit_is_refused() -> None:
    with pytest.raises(UserError, match="choose one of: after"):
        FoldBatchNorm(when="fit")
