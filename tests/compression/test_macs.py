"""Multiply-accumulates against numbers counted by hand."""

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.compression.profiling import count_macs, count_nonzero, count_params
from lightning_modules.model.mlp import MLP
from lightning_modules.zoo.model.convnets import CifarResNet, LeNet5
from lightning_modules.zoo.model.time_series import MNIST1DGRU
from lightning_modules.zoo.model.vit import ViT

LENET5 = 24 * 24 * 20 * 25 + 8 * 8 * 50 * 20 * 25 + 800 * 500 + 500 * 10
# stem; three stages of 3 blocks, whose first convolution sees the narrower input; head
RESNET20 = 9 * (1024 * 3 * 16 + 1024 * 6 * 16 * 16)
RESNET20 += 9 * (256 * (16 * 32 + 5 * 32 * 32) + 64 * (32 * 64 + 5 * 64 * 64)) + 64 * 10
VIT = 4 * 16 * 64 + 4 * (4 * 64 * 192 + 2 * 4 * 4 * 64 + 4 * 64 * 64 + 2 * 4 * 64 * 128) + 64 * 10
TRANSFORMER = 6 * 8 * 24 + 2 * 6 * 6 * 8 + 6 * 8 * 8 + 2 * 6 * 8 * 16


class States(nn.Module):
    """The states of a recurrent layer."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


@pytest.mark.parametrize(
    ("network", "shape", "expected"),
    [
        (MLP((1, 8, 8), 10, hidden=[32, 16]), (1, 8, 8), 64 * 32 + 32 * 16 + 16 * 10),
        (LeNet5((1, 28, 28), 10), (1, 28, 28), LENET5),
        (CifarResNet((3, 32, 32), 10, depth=20), (3, 32, 32), RESNET20),
        (ViT((1, 8, 8), 10), (1, 8, 8), VIT),
        (MNIST1DGRU((40,), 10), (40,), 2 * 40 * 3 * 6 * (1 + 6) + 40 * 12 * 10),
        (States(nn.LSTM(5, 7, num_layers=2, batch_first=True)), (11, 5), 11 * 4 * 7 * ((5 + 7) + (7 + 7))),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (6, 8), TRANSFORMER),
    ],
    ids=["mlp", "lenet5", "resnet20", "vit", "gru", "lstm", "transformer"],
)  # fmt: skip
def test_macs_are_those_of_one_sample_counted_by_hand(
    network: nn.Module, shape: tuple[int, ...], expected: int
) -> None:
    network.train()
    assert count_macs(network, torch.zeros(3, *shape)) == expected
    assert network.training


@pytest.mark.parametrize(
    ("layer", "expected"),
    [(nn.Linear(8, 3), 6 * 8 * 3), (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), TRANSFORMER)],
    ids=["linear", "transformer"],
)
def test_a_network_that_looks_at_its_numbers_is_counted_too(layer: nn.Module, expected: int) -> None:
    class Looking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if x.sum() < 1 else x

    assert count_macs(Looking(), torch.zeros(1, 6, 8)) == expected
    assert torch.backends.mha.get_fastpath_enabled()


def test_parameters_are_counted_once_and_zeros_not_as_nonzero() -> None:
    network = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4))
    network[1].weight = network[0].weight
    with torch.no_grad():
        network[0].weight.fill_(1)[0].zero_()
        network[1].bias.fill_(2)
    assert count_params(network) == 20
    assert count_nonzero(network) == 16
