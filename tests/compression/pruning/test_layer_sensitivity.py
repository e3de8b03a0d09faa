"""What each layer bears: measured without a trace, written down, and turned into sparsities."""

import csv
from typing import Any

import pytest
import torch

from lightning_modules.compression.pruning.layer_sensitivity import (
    SensitivityCurves,
    measure_sensitivity,
    sparsity_per_layer,
)
from lightning_modules.compression.pruning.one_shot import OneShot
from lightning_modules.compression.pruning.saliency import count_zeros
from lightning_modules.model.mlp import MLP

LEVELS = (0.5, 0.9)


def trained(work_on: Any, go_on: Any) -> Any:
    torch.manual_seed(0)
    context = work_on(MLP((8,), 3, (16, 12)), (8,))
    go_on(None, context, 30)
    return context


def test_each_layer_is_pruned_alone_and_put_back(work_on: Any, go_on: Any) -> None:
    context = trained(work_on, go_on)
    before = {name: tensor.clone() for name, tensor in context.model.state_dict().items()}
    seen: list[list[int]] = []
    accuracy = context.evaluate

    def evaluate(network: Any) -> float:
        seen.append([int((weight == 0).sum()) for weight in weights.values()])
        return accuracy(network)

    context.evaluate = evaluate
    weights = OneShot(0.5).weights(context.model)
    curves = measure_sensitivity(
        context, weights, {name: weight.detach().abs() for name, weight in weights.items()}, LEVELS
    )
    assert seen == [[0, 0, 0], [64, 0, 0], [115, 0, 0], [0, 96, 0], [0, 173, 0], [0, 0, 18], [0, 0, 32]]
    assert list(curves.values) == ["hidden.0", "hidden.1", "head"] and curves.dense == accuracy(context.model)
    assert all(torch.equal(before[name], tensor) for name, tensor in context.model.state_dict().items())


def test_layers_that_cost_less_become_sparser() -> None:
    values = {"tough": [1.0, 0.9, 0.8], "tender": [0.8, 0.4, 0.1], "equal": [1.0, 0.9, 0.8]}
    curves = SensitivityCurves((0.5, 0.8, 0.9), values, dense=1.0, higher_is_better=True)
    sizes = {"tough": 1000, "tender": 1000, "equal": 200}
    found = sparsity_per_layer(curves, sizes, 0.6)
    assert sum(found[layer] * size for layer, size in sizes.items()) == pytest.approx(0.6 * 2200, abs=0.5)
    assert found["tough"] == pytest.approx(found["equal"], abs=1e-4) and found["tough"] > 0.7 > found["tender"]
    # equal costs: 0.1 + 0.1 / 0.1 (s - 0.8) of the tough one, 0.2 / 0.5 s of the tender one
    assert 0.1 + found["tough"] - 0.8 == pytest.approx(0.4 * found["tender"], abs=1e-3)


def test_a_loss_costs_where_it_grows() -> None:
    curves = SensitivityCurves((0.5,), {"a": [0.4]}, dense=0.3, higher_is_better=False)
    assert curves.costs("a")[0] == pytest.approx(0.1)


def test_sparsity_beyond_the_levels_is_reached_all_the_same() -> None:
    curves = SensitivityCurves((0.5,), {"a": [1.0], "b": [0.9]}, dense=1.0, higher_is_better=True)
    found = sparsity_per_layer(curves, {"a": 1000, "b": 1000}, 0.95)
    assert sum(found.values()) == pytest.approx(1.9, abs=1e-3) and max(found.values()) < 1


def test_the_stage_writes_a_table_and_a_picture_and_prunes_by_them(work_on: Any, go_on: Any) -> None:
    context = trained(work_on, go_on)
    stage = OneShot(0.6, scope="sensitivity", levels=[0.9, 0.5])
    stage.name = "prune"
    stage.begin(context)
    stage.end(context)
    with (context.folder / "sensitivity.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["layer"], row["sparsity"]) for row in rows][:3] == [
        ("hidden.0", "0.5"),
        ("hidden.0", "0.9"),
        ("hidden.1", "0.5"),
    ]
    assert (context.folder / "sensitivity.png").read_bytes().startswith(b"\x89PNG")
    n = sum(weight.numel() for weight in stage.weights(context.model).values())
    assert count_zeros(context.state.masks, context.state.masks) == pytest.approx(0.6 * n, abs=2)
    assert len(set(stage.shares.values())) > 1
    for name, sparsity in stage.settings()["reached"].items():
        assert sparsity == pytest.approx(stage.shares[name.removesuffix(".weight")], abs=0.02)
