"""The pictures of a sweep: axes, importance, and that all of them can be drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sweep_fixture import BOTH, LOSS, Sweep, grid_of, made_up

from lightning_modules.sweep.parallel_coordinates import parallel_coordinates
from lightning_modules.sweep.plot_axis import axis, measure
from lightning_modules.sweep.plots import importance, importances, pareto_front
from lightning_modules.sweep.trial_results import TrialResult


@pytest.fixture
def sweep(store: Any) -> Sweep:
    return Sweep(store, ["optimizer.lr", "seed"], LOSS)


# --- names -----------------------------------------------------------------------------------------------------
def test_numbers_that_spread_over_decades_get_a_logarithmic_axis() -> None:
    grid = axis([1e-4, 1e-3, 1e-2])
    assert np.allclose(grid.places, [0, 0.5, 1])
    assert [label for _, label in grid.ticks] == ["1e-4", "1e-3", "0.01"]
    assert np.allclose(axis([0, 1, 2, 4]).places, [0, 0.25, 0.5, 1])


def test_numbers_that_would_crowd_and_words_are_levels_and_a_value_that_is_not_there_is_a_gap() -> None:
    crowded = axis([0.0, 1e-5, 1e-4, 1.0])
    assert np.allclose(crowded.places, [0, 1 / 3, 2 / 3, 1])
    words = axis(["b", None, "a", True])
    assert np.allclose(words.places, [1 / 2, np.nan, 0, 1], equal_nan=True)
    assert [label for _, label in words.ticks] == ["a", "b", "true"]


def test_a_run_that_diverged_does_not_squeeze_the_others() -> None:
    losses: list[float | None] = [0.1, 0.11, 0.12, 0.13, 0.14, 0.15, 0.16, 900.0]
    side = measure(losses, 0, "minimize")
    assert side.places[6] > 0.4
    assert side.places[7] == 1
    assert side.ticks[-1][1].startswith("≥")
    assert measure([1 - loss for loss in losses if loss], 0, "maximize").places[7] == 0


def test_importance_finds_what_matters_and_puts_the_seed_at_the_end() -> None:
    shares = importances(grid_of(40), "val/loss", "minimize")
    assert shares is not None
    assert next(iter(shares)) == "optimizer.lr"
    assert shares["optimizer.lr"] > 0.7
    assert shares == importances(grid_of(40), "val/loss", "minimize"), "the same each time"


@pytest.mark.parametrize(
    "tried",
    [
        [],
        grid_of(3),
        [made_up(i, {"seed": i, "lr": 1}, val__loss=float(i)) for i in range(9)],
        [made_up(i, {"seed": i, "lr": i % 2}, val__loss=1.0) for i in range(9)],
    ],
    ids=["none", "three", "one key", "all equal"],
)
def test_importance_is_not_guessed(tried: list[TrialResult]) -> None:
    assert importance(tried, "val/loss", "minimize") is None


@pytest.mark.parametrize("count", [1, 2, 24])
def test_every_picture_can_be_drawn_of_few_and_of_many(count: int, tmp_path: Path) -> None:
    tried = [
        made_up(
            i, {"lr": 10.0 ** -(i % 4), "model": ["mlp", None][i % 2]}, val__accuracy=i / 30, model__size_bytes=2.0**i
        )
        for i in range(count)
    ]
    tried.append(made_up(count, {"lr": 0.5}, "PRUNED", val__accuracy=0.1, model__size_bytes=None))
    for number, figure in enumerate(
        (parallel_coordinates(tried, "val/accuracy", "maximize"), pareto_front(tried, BOTH))
    ):
        assert figure is not None
        figure.savefig(tmp_path / f"{number}.png")
    assert parallel_coordinates(tried[count:], "val/accuracy", "maximize") is None
    assert pareto_front(tried[count:], BOTH) is None
