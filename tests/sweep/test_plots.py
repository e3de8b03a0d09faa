"""The plots of a sweep: what they take for an outlier, the importances, and that all of them can be drawn."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from sweep_fixture import BOTH, grid_of, made_up

from lightning_modules.sweep.plots import (
    importance,
    is_log,
    outlier_limit,
    parallel_coordinates,
    plot_pareto,
)
from lightning_modules.sweep.trial_results import TrialResult


def test_numbers_that_spread_over_decades_are_logarithmic() -> None:
    assert is_log(np.array([1e-4, 1e-3, 1e-2]))
    assert not is_log(np.array([0.0, 1.0, 2.0, 4.0]))
    assert not is_log(np.array([1.0, 2.0, 3.0, 4.0]))


def test_a_run_that_diverged_is_an_outlier() -> None:
    losses = np.array([0.1, 0.11, 0.12, 0.13, 0.14, 0.15, 0.16, 900.0])
    assert 0.16 < outlier_limit(losses, "minimize") < 900
    assert -899 < outlier_limit(1 - losses, "maximize") < 0.84
    assert outlier_limit(losses[:7], "minimize") == np.inf


def test_importance_finds_what_matters_and_puts_the_seed_at_the_end() -> None:
    first, second = (importance(grid_of(40), "val/loss", "minimize") for _ in range(2))
    assert first is not None and second is not None
    names = [label.get_text() for label in first.axes[0].get_yticklabels()]
    shares, again = ([bar.get_width() for bar in figure.axes[0].patches] for figure in (first, second))
    assert names[::2] == ["seed", "lr"] and shares[-1] > 0.7, "the most important one on top"
    assert shares == again, "the same each time"


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
def test_every_plot_can_be_drawn_of_few_and_of_many_trials(count: int, tmp_path: Path) -> None:
    from matplotlib import pyplot

    style = dict(mpl.rcParams)
    tried = [
        made_up(
            i, {"lr": 10.0 ** -(i % 4), "model": ["mlp", None][i % 2]}, val__accuracy=i / 30, model__size_bytes=2.0**i
        )
        for i in range(count)
    ]
    tried.append(made_up(count, {"lr": 0.5}, "PRUNED", val__accuracy=0.1, model__size_bytes=None))
    figures: list[Any] = [parallel_coordinates(tried, "val/accuracy", "maximize"), plot_pareto(tried, BOTH)]
    figures.append(plot_pareto(tried, {**BOTH, "val/accuracy ": "maximize"}) or figures[0])
    for number, figure in enumerate(figures):
        figure.savefig(tmp_path / f"{number}.png", bbox_inches="tight")
    assert parallel_coordinates(tried[count:], "val/accuracy", "maximize") is None
    assert plot_pareto(tried[count:], BOTH) is None
    assert not pyplot.get_fignums() and {**mpl.rcParams, "backend": ""} == {**style, "backend": ""}


def test_a_key_that_some_trials_lack_is_not_drawn(tmp_path: Path) -> None:
    tried = [made_up(i, {"lr": i, **({"width": i} if i % 2 else {})}, val__loss=float(i)) for i in range(6)]
    figure = parallel_coordinates(tried, "val/loss", "minimize")
    assert figure is not None
    figure.savefig(tmp_path / "parallel.png")


@pytest.mark.parametrize("names", [2, 3, 4])
def test_fronts_of_several_objectives(names: int, tmp_path: Path) -> None:
    objectives = {f"val/m{k}": ["minimize", "maximize"][k % 2] for k in range(names)}
    rng = np.random.default_rng(0)
    tried = [made_up(i, {"lr": i}, **{f"val__m{k}": float(rng.random()) for k in range(names)}) for i in range(9)]
    figure = plot_pareto(tried, objectives)
    assert figure is not None
    figure.savefig(tmp_path / "front.png")
