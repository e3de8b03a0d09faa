"""The samplers of a search: Optuna's, created anew for each trial.

A sampler is seeded with (`search.seed`, number of the trial), and knows of earlier trials what is in the storage. What it
proposes is thus a function of seed, number and history, and a resumed search continues as if it had not been interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from optuna import Study, Trial
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from lightning_modules.compat.optuna import reopen_trial, suggest
from lightning_modules.config.errors import UserError
from lightning_modules.sweep.cmaes_sampler import CmaEsSampler
from lightning_modules.sweep.search_settings import SearchSettings, construct, raise_mistakes
from lightning_modules.sweep.search_space import grid_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, TrialState

    from lightning_modules.sweep.search_space import Space

MAX_GRID_POINTS = 1_000_000


class ShuffledGridSampler(BaseSampler):
    """All points of a space in one shuffled order, so that a search with fewer trials still covers it.

    Optuna's GridSampler stores its points in each trial, and stops the study after the last one.

    Args:
        number: of the trial; after the last point the order starts again.
        seed: of the order, the same for all trials.
    """

    def __init__(self, space: Space, number: int, seed: int) -> None:
        self._space, self._number, self._seed = space, number, seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, object]:
        values = [grid_values(distribution) or () for distribution in self._space.values()]
        order = np.random.RandomState(self._seed).permutation(grid_size(self._space))
        places = np.unravel_index(order[self._number % len(order)], [len(of_key) for of_key in values])
        return {key: of_key[int(place)] for key, of_key, place in zip(self._space, values, places, strict=True)}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> object:
        raise ValueError(f"'{param_name}' is not in the space of this search")


def grid_size(space: Space) -> int:
    """The number of points of the grid. Raises UserError that names the ranges without a step."""
    infinite = [key for key, distribution in space.items() if grid_values(distribution) is None]
    if infinite:
        raise UserError(
            f"search.sampler: grid needs a finite number of values, and {', '.join(infinite)} "
            f"{'are ranges' if len(infinite) > 1 else 'is a range'} without a step; give a step or choices, "
            "or use tpe or random"
        )
    return math.prod(len(grid_values(distribution) or ()) for distribution in space.values())


_CONSTRUCTORS: dict[str, Callable[..., BaseSampler]] = {
    "tpe": TPESampler,
    "cmaes": CmaEsSampler,
    "random": RandomSampler,
    "grid": ShuffledGridSampler,
    "nsga2": NSGAIISampler,
}
# Optuna's 50 would make a search of 50 trials a random one
_DEFAULTS: dict[str, dict[str, object]] = {"nsga2": {"population_size": 12}}


def ask_trial(
    study: Study, settings: SearchSettings, space: Space, objectives: Mapping[str, str], number: int
) -> Trial:
    """Return trial `number` with all its values: a new one, or one that was interrupted before it had all of them."""
    study.sampler = make_sampler(settings, space, objectives, number)
    trials = study.get_trials(deepcopy=False)
    if number == len(trials):
        return study.ask(fixed_distributions=space)
    trial = reopen_trial(study, trials[number])
    for key, distribution in space.items():
        suggest(trial, key, distribution)
    return trial


def make_sampler(settings: SearchSettings, space: Space, objectives: Mapping[str, str], number: int) -> BaseSampler:
    """Return the sampler of trial `number`.

    Raises UserError if the sampler does not support the space or the objectives, or has no such option.
    """
    name = settings.sampler
    raise_mistakes("in the search", _unsupported(name, space, objectives))
    injected: dict[str, object] = {"seed": int(np.random.SeedSequence([settings.seed, number]).generate_state(1)[0])}
    if name == "cmaes":
        injected["space"] = space
    if name == "grid":  # all trials share one order
        injected = {"space": space, "number": number, "seed": settings.seed}
    options = _DEFAULTS.get(name, {}) | dict(settings.sampler_options)
    return AtomicSampler(construct("search.sampler_options", _CONSTRUCTORS[name], options, injected), space)


def _unsupported(name: str, space: Space, objectives: Mapping[str, str]) -> list[str]:
    """The reasons why the sampler cannot search this space for these objectives."""
    mistakes = []
    if name == "cmaes":
        choices = [key for key, dist in space.items() if isinstance(dist, CategoricalDistribution)]
        if choices:
            have = "have choices" if len(choices) > 1 else "has choices"
            mistakes.append(f"cmaes needs numbers, and {', '.join(choices)} {have}; use tpe, random or nsga2")
        if len(objectives) > 1:
            mistakes.append(f"cmaes supports one objective, not {len(objectives)}; use nsga2 or tpe")
    elif name == "grid" and grid_size(space) > MAX_GRID_POINTS:
        mistakes.append(f"this grid has {grid_size(space):,} points; use larger steps, tpe or random")
    return [f"search.sampler: {mistake}" for mistake in mistakes]


class AtomicSampler(BaseSampler):
    """Draws all values of a trial before any is stored.

    If the process is killed between two of them, the missing ones are drawn again, from the same seed.
    """

    def __init__(self, inner: BaseSampler, space: Space) -> None:
        self._inner, self._space = inner, space

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {key: distribution for key, distribution in self._space.items() if not distribution.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, object]:
        together = self._inner.infer_relative_search_space(study, trial)
        values = self._inner.sample_relative(study, trial, together)
        for key, distribution in search_space.items():
            if key not in values:
                values[key] = self._inner.sample_independent(study, trial, key, distribution)
        return values

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> object:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Nothing: the inner sampler is discarded after its trial."""
