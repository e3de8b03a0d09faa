"""The network of DeepOBS and of Agarap: its shape, what it begins with, and the same function in either layout."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.model.convnets import TwoConv
from lightning_modules.zoo.task.noisy_quadratic import LearnedConstant


def test_it_has_as_many_parameters_as_the_original() -> None:
    assert sum(p.numel() for p in TwoConv([1, 28, 28], 10).parameters()) == 3_274_634


@pytest.mark.parametrize("std", [0.05, 0.1])
def test_weights_begin_within_two_deviations_and_biases_at_their_value(std: float) -> None:
    torch.manual_seed(0)
    for name, value in TwoConv([1, 28, 28], 10, std=std, bias=0.2).named_parameters():
        if name.endswith("bias"):
            assert bool((value == 0.2).all()), name
        else:
            assert float(value.abs().max()) <= 2 * std, name
            # a normal distribution cut at two deviations has 0.8796 of the deviation left
            assert float(value.std()) == pytest.approx(0.8796 * std, rel=0.05), name


@pytest.mark.parametrize("channels_last", [False, True])
def test_it_is_the_network_of_the_paper_layer_by_layer(channels_last: bool) -> None:
    torch.manual_seed(0)
    model = TwoConv([1, 28, 28], 10, channels_last=channels_last)
    images = torch.rand(3, 1, 28, 28)
    first, second = (layer for layer in model.features if isinstance(layer, nn.Conv2d))
    maps = F.max_pool2d(F.relu(F.conv2d(images, first.weight, first.bias, padding=2)), 2)
    maps = F.max_pool2d(F.relu(F.conv2d(maps, second.weight, second.bias, padding=2)), 2)
    expected = model.head(F.relu(model.neck[0](maps.flatten(1))))
    assert torch.allclose(model(images), expected, atol=1e-5)


def test_odd_edges_are_kept_as_same_padding_keeps_them() -> None:
    assert TwoConv([1, 7, 9], 3)(torch.rand(2, 1, 7, 9)).shape == (2, 3)
    assert TwoConv([1, 7, 9], 3).neck[0].in_features == 64 * 2 * 3


def test_dropout_acts_in_training_alone() -> None:
    torch.manual_seed(0)
    model, images = TwoConv([1, 8, 8], 10, dropout=0.5), torch.rand(2, 1, 8, 8)
    assert not torch.equal(model(images), model(images))
    assert torch.equal(model.eval()(images), model(images))


def test_samples_that_are_no_images_are_refused() -> None:
    with pytest.raises(UserError, match="model=two_conv needs images"):
        TwoConv([40], 10)


def test_a_constant_answers_every_sample_alike_and_is_learned() -> None:
    model = LearnedConstant([3], 5, value=2.0)
    outputs = model(torch.rand(4, 3))
    assert outputs.tolist() == [[2.0] * 5] * 4
    outputs.sum().backward()
    assert model.theta.grad is not None
    assert model.theta.grad.tolist() == [4.0] * 5
