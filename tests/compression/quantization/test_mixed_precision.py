"""Mixed bits: sensitivities by hand, the budget, the table and the picture."""

import csv
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_modules.compression.pruning.saliency import mean_over_batches
from lightning_modules.compression.quantization.bit_allocation import allocate_bits
from lightning_modules.compression.quantization.mixed_precision import MixedPrecision
from lightning_modules.compression.stage import layer_weights
from lightning_modules.config.errors import UserError


def test_the_greedy_choice_takes_bits_where_they_cost_least() -> None:
    table = {"a": {8: 0.0, 4: 1.0, 2: 100.0}, "b": {8: 0.0, 4: 2.0, 2: 3.0}}
    sizes = {"a": 10.0, "b": 10.0}

    def size(name: str, bits: int) -> float:
        return sizes[name] * bits

    assert allocate_bits(table, size, 160.0) == ({"a": 8, "b": 8}, 160.0)
    assert allocate_bits(table, size, 120.0) == ({"a": 4, "b": 8}, 120.0)
    assert allocate_bits(table, size, 60.0) == ({"a": 4, "b": 2}, 60.0)
    assert allocate_bits(table, size, 10.0) == ({"a": 2, "b": 2}, 40.0)


def test_the_squared_gradient_is_that_of_the_tasks_loss(bench: Callable[[str], Any]) -> None:
    made = bench("mlp")
    weights = {"head.weight": made.model.head.weight}
    squares = mean_over_batches(made.context, weights, 2, lambda w, g: g.square(), label_smoothing=True)["head.weight"]
    made.model.eval()
    expected = torch.zeros_like(squares)
    for _, batch in zip(range(2), made.context.batches(), strict=False):
        made.model.zero_grad()
        torch.nn.functional.cross_entropy(made.model(batch["x"]), batch["y"]).backward()
        expected += made.model.head.weight.grad.square() / 2
    assert torch.allclose(squares, expected)


@pytest.mark.parametrize("of", ["codebook", "grid"])
@pytest.mark.parametrize("by", ["proxy", "metric"])
def test_the_mean_of_the_bits_is_within_the_budget(bench: Callable[[str], Any], of: Any, by: Any) -> None:
    made = bench("mlp")
    dense = made.accuracy()
    stage = MixedPrecision(bits=4.5, of=of, by=by, choices=[2, 4, 6, 8])
    made.run(stage)
    weights = layer_weights(made.model)
    entries = sum(weight.numel() for weight in weights.values())
    mean = sum(stage.chosen[name] * weight.numel() for name, weight in weights.items()) / entries
    assert 3.0 < mean <= 4.5
    assert made.logged["compression/mean_bits"] == pytest.approx(mean)
    for name, weight in weights.items():
        values = len(weight.unique()) if of == "codebook" else made.context.state.grids[name].bits
        assert values <= (2 ** stage.chosen[name] if of == "codebook" else stage.chosen[name])
    assert made.accuracy() > dense - 0.05


def test_a_size_ratio_counts_everything_of_the_network(bench: Callable[[str], Any]) -> None:
    made = bench("lenet5")
    stage = MixedPrecision(size_ratio=8.0)
    made.run(stage)
    weights = layer_weights(made.model)
    everything = sum(parameter.numel() for parameter in made.model.parameters())
    bits = 32 * (everything - sum(weight.numel() for weight in weights.values()))
    bits += sum(stage.chosen[name] * weight.numel() + 32 * 2 ** stage.chosen[name] for name, weight in weights.items())
    assert 8.0 <= 32 * everything / bits < 10
    assert len(set(stage.chosen.values())) > 1  # no layer is like another


def test_pruned_entries_are_not_counted_and_stay_zero(bench: Callable[[str], Any]) -> None:
    made = bench("mlp")
    for name, weight in layer_weights(made.model).items():
        made.context.state.masks[name] = weight.detach().abs() > weight.detach().abs().median()
    made.context.state.apply(made.model)
    made.run(MixedPrecision(size_ratio=9.0))  # 3.5 bits on average, had nothing been pruned
    for name, weight in layer_weights(made.model).items():
        assert not weight[~made.context.state.masks[name]].any()


def test_table_and_picture_are_written(bench: Callable[[str], Any]) -> None:
    made = bench("mlp")
    stage = MixedPrecision(bits=4, choices=[2, 4, 8])
    stage.name = "mixed"
    made.run(stage)
    with (made.context.folder / "mixed-bits.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["weight"] for row in rows] == list(stage.chosen)
    assert [int(row["bits"]) for row in rows] == list(stage.chosen.values())
    assert all(float(row["cost_2"]) > float(row["cost_8"]) for row in rows)
    assert (made.context.folder / "mixed-bits.png").stat().st_size > 5_000


def test_a_choice_is_remembered_by_the_stages_state(bench: Callable[[str], Any]) -> None:
    stage, other = MixedPrecision(bits=4), MixedPrecision(bits=4)
    bench("mlp").run(stage)
    other.load_state_dict(stage.state_dict())
    assert other.settings() == stage.settings() and other.chosen


def test_a_budget_that_cannot_be_met_says_what_is_reached(bench: Callable[[str], Any]) -> None:
    with pytest.raises(UserError, match=r"size_ratio=40 cannot be met: choices=\[2, 3, 4, 5, 6, 8\] reach only 1\d"):
        bench("lenet5").run(MixedPrecision(size_ratio=40))
    with pytest.raises(UserError, match=r"bits=1.5: expected at least 2"):
        MixedPrecision(bits=1.5)


def test_mistakes_are_named() -> None:
    for settings, message in (
        ({}, "exactly one budget"),
        ({"bits": 4, "size_ratio": 8}, "exactly one budget"),
        ({"size_ratio": 0.5}, "size_ratio=0.5: expected more than 1"),
        ({"bits": 4, "of": "grit"}, "of=grit: did you mean 'grid'"),
        ({"bits": 4, "by": "loss"}, "by=loss: choose one of: metric, proxy"),
        ({"bits": 4, "choices": [1, 4], "of": "grid"}, "expected 2 to 8 bits for a grid"),
        ({"bits": 4, "choices": []}, "choices"),
        ({"bits": 4, "batches": 0}, "batches=0"),
    ):
        with pytest.raises(UserError, match=message):
            MixedPrecision(**settings)
