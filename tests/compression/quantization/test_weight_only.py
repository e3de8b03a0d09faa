"""Grids: whole numbers times a scale."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_modules.compression.quantization.weight_only import WeightOnlyQuantization, fit_grid
from lightning_modules.compression.stage import layer_weights
from lightning_modules.config.errors import UserError


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("zero_point", [False, True])
def test_the_weight_is_a_whole_number_within_its_bits_times_its_scale(bits: int, zero_point: bool) -> None:
    torch.manual_seed(bits)
    weight = torch.randn(6, 4, 3, 3) + 0.5
    grid = fit_grid(weight, bits, zero_point=zero_point)
    assert grid.q.shape == weight.shape and grid.scale.shape == (6, 1)
    assert -(2 ** (bits - 1)) <= int(grid.q.min()) and int(grid.q.max()) < 2 ** (bits - 1)
    zero = grid.zero_point.float() if grid.zero_point is not None else torch.zeros(6, 1)
    assert torch.equal(grid.values(), ((grid.q.view(6, -1).float() - zero) * grid.scale).view_as(weight))
    if zero_point:
        assert ((grid.values() - weight).abs().flatten(1) <= 0.51 * grid.scale).all()
    again = fit_grid(grid.values(), bits, zero_point=zero_point)
    assert torch.allclose(again.values(), grid.values(), atol=1e-6)


def test_more_bits_smaller_groups_a_zero_point_and_the_search_each_lower_the_error() -> None:
    torch.manual_seed(0)
    weight = torch.randn(16, 64).pow(3).abs()  # positive, with a heavy tail

    def error(bits: int, **settings: Any) -> float:
        return float((fit_grid(weight, bits, **settings).values() - weight).square().sum())

    assert error(8) < error(4) / 50
    assert error(4, group=16) < error(4)
    assert error(4, zero_point=True) < error(4)
    assert error(4, scale="mse") < error(4)
    assert error(4, scale="mse", zero_point=True) < error(4, zero_point=True)


@pytest.mark.parametrize("zero_point", [False, True])
@pytest.mark.parametrize("scale", ["range", "mse"])
def test_zeros_and_empty_channels_stay_zero(zero_point: bool, scale: Any) -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 32) + 2
    weight[1] = 0
    weight[:, ::3] = 0
    grid = fit_grid(weight, 4, zero_point=zero_point, scale=scale)
    assert not grid.values()[weight == 0].any()
    assert grid.values().isfinite().all()


def test_a_channel_far_from_zero_is_met_with_zero_still_on_the_grid() -> None:
    weight = torch.linspace(5, 6, 32).repeat(2, 1) * torch.tensor([[1.0], [-1.0]])
    grid = fit_grid(weight, 6, zero_point=True)
    assert grid.zero_point is not None and grid.zero_point.flatten().tolist() == [-32, 31]
    assert ((grid.values() - weight).abs() <= 0.51 * grid.scale).all()


@pytest.mark.parametrize("name", ["mlp", "lenet5", "resnet", "vit", "gru"])
def test_eight_bits_keep_the_accuracy_and_four_bits_lose_more_of_the_weights(
    bench: Callable[[str], Any], name: str
) -> None:
    distance = {}
    for bits in (8, 4):
        made = bench(name)
        dense = {key: weight.detach().clone() for key, weight in layer_weights(made.model).items()}
        accuracy = made.accuracy()
        made.run(WeightOnlyQuantization(bits=bits))
        if bits == 8:
            assert made.accuracy() > accuracy - 0.02
        assert set(made.context.state.grids) == set(dense)
        after = layer_weights(made.model)
        distance[bits] = sum(float((after[key] - dense[key]).detach().square().sum()) for key in dense)
        assert all(torch.equal(after[key], made.context.state.grids[key].values()) for key in dense)
    assert 0 < distance[8] < distance[4] / 50


def test_a_group_that_does_not_fit_is_refused_with_those_that_do(bench: Callable[[str], Any]) -> None:
    made = bench("mlp")
    with pytest.raises(UserError, match=r"stages.tested: group=48 does not divide the 2048 entries of hidden.0.weight"):
        made.run(WeightOnlyQuantization(bits=4, group=48))
    made.run(WeightOnlyQuantization(bits=4, group=32))
    assert made.context.state.grids["head.weight"].scale.shape == (10, 1)


def test_mistakes_are_named() -> None:
    for settings, message in (
        ({"bits": 1}, "bits=1: expected a value in"),
        ({"bits": 16}, "bits=16"),
        ({"group": 1}, "group=1: expected 2 or more"),
        ({"scale": "rang"}, "scale=rang: did you mean 'range'"),
    ):
        with pytest.raises(UserError, match=message):
            WeightOnlyQuantization(**settings)


def test_a_grid_that_is_there_already_is_refused(bench: Callable[[str], Any]) -> None:
    made = bench("mlp")
    made.run(WeightOnlyQuantization(bits=4))
    with pytest.raises(UserError, match="no weight changed"):
        made.run(WeightOnlyQuantization(bits=4))
