"""The networks of time series classification, and the perceptron of 1988."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.model.time_series import TimeSeriesFCN, TimeSeriesMLP, TimeSeriesResNet, UniformMLP


@pytest.mark.parametrize(
    ("network", "one", "twelve"),
    [(TimeSeriesFCN, 264_962, 277_129), (TimeSeriesResNet, 504_258, 511_497), (TimeSeriesMLP, 514_502, 680_009)],
)
def test_a_network_has_the_published_size_and_takes_one_dimension_or_several(
    network: type[nn.Module], one: int, twelve: int
) -> None:
    for shape, outputs, size in (((24,), 2, one), ((12, 29), 9, twelve)):
        built = network(shape, outputs)
        assert sum(p.numel() for p in built.parameters()) == size
        assert built(torch.randn(3, *shape)).shape == (3, outputs)


def test_an_even_kernel_is_padded_one_more_on_the_right_and_the_length_stays() -> None:
    features = TimeSeriesFCN([5], 2, channels=[1, 1, 1]).features
    padded = features[0](torch.ones(1, 1, 5))
    assert padded.tolist() == [[[0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0]]]
    assert features(torch.ones(1, 1, 5)).shape == (1, 1, 5)


def test_weights_and_norms_begin_as_in_keras() -> None:
    network = TimeSeriesResNet([24], 2)
    convolution = network.features[1].residual[1]
    bound = (6 / ((64 + 128) * 8)) ** 0.5
    assert isinstance(convolution, nn.Conv1d) and 0.99 * bound < convolution.weight.abs().max() <= bound
    assert not any(layer.bias.any() for layer in network.modules() if isinstance(layer, nn.Conv1d | nn.Linear))
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm1d)]
    assert len(norms) == 12 and all((norm.eps, norm.momentum) == (1e-3, 0.01) for norm in norms)


def test_a_shortcut_is_widened_only_where_the_channels_change() -> None:
    kinds = [[type(layer) for layer in block.shortcut] for block in TimeSeriesResNet([24], 2).features]
    assert kinds == [[nn.Conv1d, nn.BatchNorm1d], [nn.Conv1d, nn.BatchNorm1d], [nn.BatchNorm1d]]


def test_the_perceptron_drops_the_input_of_each_layer() -> None:
    network = TimeSeriesMLP([24], 2)
    assert [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)] == [0.1, 0.2, 0.2, 0.3]
    with pytest.raises(UserError, match=r"model.dropouts"):
        TimeSeriesMLP([24], 2, hidden=[10], dropouts=[0.1])


def test_samples_that_are_no_series_are_refused() -> None:
    with pytest.raises(UserError, match="model=series_fcn needs series"):
        TimeSeriesFCN([3, 32, 32], 10)


def test_the_perceptron_of_1988_begins_uniformly_with_its_biases() -> None:
    network = UniformMLP(bound=0.3, input_shape=[60], num_outputs=2, hidden=[12], activation="sigmoid")
    values = torch.cat([p.flatten() for p in network.parameters()])
    assert len(values) == 60 * 12 + 12 + 12 * 2 + 2
    assert 0.28 < values.abs().max() <= 0.3
    assert network.head.bias.any()
    assert torch.allclose(
        network(torch.zeros(1, 60)), F.linear(network.hidden[0].bias.sigmoid(), network.head.weight, network.head.bias)
    )
