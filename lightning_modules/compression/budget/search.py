"""The next point to try: `propose` halves the effort between success and failure, then `suggest` asks Optuna.

The effort is how much is compressed: 0 is the dense network, 1 the goal (`Goal.effort`). More effort is assumed to cost
quality.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_modules.config.plain import PlainDict

EFFORT_RESOLUTION = 0.05  # of the effort: closer points count as equal
OVERSHOOT = 1.3  # until something fails, the next attempt is halfway to so many times the effort
MAX_GOAL_ATTEMPTS = 3  # with the same bits: the measured size corrects the next attempt
MIN_EFFORT, MAX_EFFORT = 0.05, 4.0  # of an effort
MIN_BITS, MAX_BITS = 2, 8
EFFORT_SPREAD = 1.25  # factor around the best effort
BITS_SPREAD = 2  # around the initial bits


@dataclass(frozen=True)
class Attempt:
    """Attributes:
    target: the effort that was tried; bits: of a kept weight (0: weights are not shared).
    reached: the effort that was measured; None if it failed or is still running.
    drop: of the quality; infinite if it failed.
    is_running: whether it has no outcome yet.
    """

    target: float
    bits: int
    reached: float | None = None
    drop: float = math.inf
    is_running: bool = False

    @property
    def position(self) -> float:
        """Its effort: the measured one if there is one, else the target."""
        return self.target if self.reached is None else self.reached


Point = tuple[float, int]  # effort and bits


def propose(attempts: Sequence[Attempt], bits: int, max_drop: float) -> Point | None:
    """The next point to try; None if there is nothing left to halve, or while it depends on a running attempt.

    Args:
        bits: initial ones; 0 if weights are not shared.
    """
    if not attempts:
        return 1.0, bits
    running = [attempt for attempt in attempts if attempt.is_running]
    if running:
        return _parallel_point(attempts, running[0], bits)
    best = best_attempt(attempts, max_drop)
    if best is None or best.position < 1:
        return _retry_goal(attempts, best, bits, max_drop) or _back_off(attempts, best, max_drop)
    low, high = best.position, _lowest_failed_effort(attempts, best.bits, best.position, max_drop)
    return _midpoint(low, low * OVERSHOOT if math.isinf(high) else high, best.bits)


def best_attempt(attempts: Sequence[Attempt], max_drop: float) -> Attempt | None:
    """The attempt of the highest effort among those with an allowed drop."""
    good = [a for a in attempts if a.reached is not None and a.drop <= max_drop]
    return max(good, key=lambda attempt: attempt.position, default=None)


def _bit_variants(bits: int) -> list[int]:
    """The initial bits, and their neighbours."""
    near = [bits - 1, bits + 1] if bits else []
    return [bits, *(b for b in near if MIN_BITS <= b <= MAX_BITS)]


def _retry_goal(attempts: Sequence[Attempt], best: Attempt | None, bits: int, max_drop: float) -> Point | None:
    """The goal itself, with bits that have not failed so far; first those of the best attempt."""
    order = dict.fromkeys(([best.bits] if best else []) + _bit_variants(bits))
    for variant in order:
        own = [a for a in attempts if a.bits == variant]
        failed = any(a.drop > max_drop for a in own)
        if not failed and sum(a.target == 1.0 for a in own) < MAX_GOAL_ATTEMPTS:
            return 1.0, variant
    return None


def _back_off(attempts: Sequence[Attempt], best: Attempt | None, max_drop: float) -> Point | None:
    """Halfway between an allowed drop and a larger one, with the bits of the smallest drop."""
    bits = best.bits if best else min(attempts, key=lambda a: (a.drop, a.position)).bits
    low = best.position if best else 0.0
    return _midpoint(low, _lowest_failed_effort(attempts, bits, low, max_drop), bits)


def _lowest_failed_effort(attempts: Sequence[Attempt], bits: int, low: float, max_drop: float) -> float:
    bad = [a.position for a in attempts if a.bits == bits and a.drop > max_drop and a.position > low]
    return min(bad, default=math.inf)


def _midpoint(low: float, high: float, bits: int) -> Point | None:
    """The middle; None if it is too close to the ends."""
    if math.isinf(high) or low >= MAX_EFFORT or high - low < 2 * EFFORT_RESOLUTION:
        return None
    return min(MAX_EFFORT, max(MIN_EFFORT, round((low + high) / 2, 3))), bits


def _parallel_point(attempts: Sequence[Attempt], running: Attempt, bits: int) -> Point | None:
    """For parallel jobs: the effort of the running attempt, with other bits."""
    tried = {a.bits for a in attempts if abs(a.target - running.target) < EFFORT_RESOLUTION}
    return next(((running.target, other) for other in _bit_variants(bits) if other not in tried), None)


# --- when halving has ended --------------------------------------------------------------------------------------
def suggest(attempts: Sequence[Attempt], bits: int, max_drop: float, seed: int) -> Point:
    """A point around the best one, of no less effort, by Optuna's constrained Bayesian optimization.

    Args:
        bits: initial ones; 0 if weights are not shared.
    """
    import optuna

    best = best_attempt(attempts, max_drop)
    bad = [attempt.position for attempt in attempts if attempt.drop > max_drop]
    middle = best.position if best else min(bad, default=1.0)
    low, high = (
        min(MAX_EFFORT / EFFORT_SPREAD, max(MIN_EFFORT, middle / EFFORT_SPREAD)),
        min(MAX_EFFORT, max(MIN_EFFORT, middle) * EFFORT_SPREAD),
    )
    space: Any = {"effort": optuna.distributions.FloatDistribution(low, high)}
    near = max(MIN_BITS, bits - BITS_SPREAD), min(MAX_BITS, bits + BITS_SPREAD)
    if bits:
        space["bits"] = optuna.distributions.IntDistribution(*near)
    known = [a for a in attempts if a.reached is not None and low / 1.1 < a.position < high * 1.1]
    known = [a for a in known if not bits or near[0] <= a.bits <= near[1]]
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=1)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials([_as_trial(attempt, space, max_drop) for attempt in known])
        found = study.ask(fixed_distributions=space).params
    finally:
        optuna.logging.set_verbosity(verbosity)
    return round(max(found["effort"], best.position if best else 0.0), 3), found.get("bits", 0)


def _as_trial(attempt: Attempt, space: PlainDict, max_drop: float) -> Any:
    from optuna.trial import create_trial

    effort = space["effort"]
    params = {"effort": min(effort.high, max(effort.low, attempt.position)), "bits": attempt.bits}
    return create_trial(
        params={key: params[key] for key in space},
        distributions=space,
        value=attempt.reached,
        constraints={"drop": min(attempt.drop, 1e3) - max_drop},
    )
