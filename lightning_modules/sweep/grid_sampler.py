"""All points of a space in an order that is shuffled once, so that a search with fewer trials still sees all of it.

Optuna's own grid writes its points into each trial, and stops a loop that is not Optuna's when the last one has ended.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.samplers import BaseSampler

from lightning_modules.config.errors import UserError
from lightning_modules.sweep.distribution import grid_values

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from lightning_modules.sweep.search_space import Space

MAX_GRID_POINTS = 1_000_000


def grid_size(space: Space) -> int:
    """How many points the grid has. Raises UserError that names the ranges without a step."""
    endless = [key for key, distribution in space.items() if grid_values(distribution) is None]
    if endless:
        raise UserError(
            f"search.sampler: grid needs an end to the values, and {', '.join(endless)} "
            f"{'are ranges' if len(endless) > 1 else 'is a range'} without a step; give a step or choices, "
            "or take tpe or random"
        )
    return math.prod(len(grid_values(distribution) or ()) for distribution in space.values())


class ShuffledGridSampler(BaseSampler):
    """The point of trial `number`; after the last one it begins anew.

    Args:
        seed: of the order, the same for all trials.
    """

    def __init__(self, space: Space, number: int, seed: int) -> None:
        self._space, self._number, self._seed = space, number, seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        values = [grid_values(distribution) or () for distribution in self._space.values()]
        order = np.random.RandomState(self._seed).permutation(grid_size(self._space))
        places = np.unravel_index(order[self._number % len(order)], [len(of_key) for of_key in values])
        return {key: of_key[int(place)] for key, of_key, place in zip(self._space, values, places, strict=True)}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise ValueError(f"'{param_name}' is not in the space of this search")
