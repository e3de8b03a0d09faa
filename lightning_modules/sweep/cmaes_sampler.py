"""CMA-ES for Optuna without stored state: the optimiser is rebuilt from the ended trials for each new trial.

Optuna's own sampler pickles the optimiser into the storage, and this package unpickles nothing from a store.

Source: N. Hansen, The CMA Evolution Strategy: A Tutorial, arXiv:1604.00772; the package `cmaes`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cmaes import CMA
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial


class CmaEsSampler(BaseSampler):
    """Samples from the distribution that the ended trials define, generation by generation.

    A generation is the next `population_size` trials in the order in which they ended, whenever they were drawn. Only ranks
    matter: a pruned trial ranks behind all finished ones, the earlier it was pruned the further. Failed trials are ignored.

    Args:
        space: floats and ints; each is a coordinate from 0 to 1, of the logarithm for a log range.
        population_size: trials in a generation; None: 4 + floor(3 ln n) for n keys (eq. 48).
        sigma: standard deviation of the first generation about the middle, as a share of the range.
        lr_adapt: adapts the learning rate (arXiv:2304.03473), for noisy or multimodal objectives.
        seed: of the numbers drawn for this trial.
    """

    def __init__(
        self,
        space: Mapping[str, BaseDistribution],
        population_size: int | None = None,
        sigma: float = 1 / 6,
        lr_adapt: bool = False,
        seed: int | None = None,
    ) -> None:
        if not sigma > 0:
            raise ValueError(f"sigma: {sigma} is not above 0")
        if population_size is not None and population_size < 4:
            raise ValueError(f"population_size: {population_size} is below 4")
        self._axes = {key: Axis(distribution) for key, distribution in space.items()}
        self._options = {"population_size": population_size, "sigma": sigma, "lr_adapt": lr_adapt, "seed": seed}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {key: axis.distribution for key, axis in self._axes.items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, object]:
        point = self._optimiser(study).ask()
        return {key: axis.value(x) for (key, axis), x in zip(self._axes.items(), point, strict=True)}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> object:
        raise ValueError(f"'{param_name}' is not in the space of this search")

    def _optimiser(self, study: Study) -> CMA:
        """The optimiser after all complete generations."""
        from cmaes import CMA

        size = len(self._axes)
        optimiser = CMA(mean=np.full(size, 0.5), bounds=np.tile([0.0, 1.0], (size, 1)), **self._options)
        ended = _ended(study)
        per_generation = optimiser.population_size
        for start in range(0, len(ended) - per_generation + 1, per_generation):
            ranked = sorted(ended[start : start + per_generation], key=lambda trial: _rank_key(study, trial))
            optimiser.tell([(self._point(trial), float(rank)) for rank, trial in enumerate(ranked)])
        return optimiser

    def _point(self, trial: FrozenTrial) -> np.ndarray:
        return np.array([axis.coordinate(trial.params[key]) for key, axis in self._axes.items()])


class Axis:
    """One key's range as the coordinates from 0 to 1; each integer or step has an interval of the same length."""

    def __init__(self, distribution: BaseDistribution) -> None:
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        self.distribution = distribution
        self._step = distribution.step
        half = 0.0 if self._step is None else self._step / 2
        self._low, self._high = self._scale(distribution.low - half), self._scale(distribution.high + half)

    def _scale(self, value: float) -> float:
        return math.log(value) if self.distribution.log else value

    def coordinate(self, value: float) -> float:
        return (self._scale(value) - self._low) / (self._high - self._low)

    def value(self, coordinate: float) -> float | int:
        low, high = self.distribution.low, self.distribution.high
        scaled = self._low + coordinate * (self._high - self._low)
        value = math.exp(scaled) if self.distribution.log else scaled
        if self._step is not None:
            value = low + round((value - low) / self._step) * self._step
        value = min(max(value, low), high)
        return int(value) if isinstance(self.distribution, IntDistribution) else float(value)


def _ended(study: Study) -> list[FrozenTrial]:
    """The finished and pruned trials, in the order in which they ended."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    ended = [trial for trial in trials if trial.state == TrialState.COMPLETE or trial.last_step is not None]
    return sorted(ended, key=lambda trial: (trial.datetime_complete is None, trial.datetime_complete, trial.number))


def _rank_key(study: Study, trial: FrozenTrial) -> tuple[float, ...]:
    """The sort key of a generation, best first."""
    sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
    if trial.state == TrialState.COMPLETE:
        assert trial.value is not None
        return (0.0, 0.0, sign * trial.value, trial.number)
    assert trial.last_step is not None
    last = sign * trial.intermediate_values[trial.last_step]
    return (1.0, -trial.last_step, math.inf if math.isnan(last) else last, trial.number)
