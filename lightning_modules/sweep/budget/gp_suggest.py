"""What to try where halving has ended: Optuna's Bayesian optimization of the effort, with the quality as its constraint."""

from collections.abc import Sequence
from typing import Any

from lightning_modules.sweep.budget.search import (
    MAX_BITS,
    MAX_EFFORT,
    MIN_BITS,
    MIN_EFFORT,
    Attempt,
    Point,
    best_attempt,
)

EFFORT_SPREAD = 1.25  # how far beside the best effort it looks
BITS_SPREAD = 2  # how far beside the bits to begin with


def suggest(attempts: Sequence[Attempt], bits: int, max_drop: float, seed: int) -> Point:
    """A point around the best one, of no less effort: Gaussian processes of effort and drop over what was tried there.

    Args:
        bits: to begin with; 0 where no weights are shared.
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
    loudness = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=1)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials([_as_trial(attempt, space, max_drop) for attempt in known])
        found = study.ask(fixed_distributions=space).params
    finally:
        optuna.logging.set_verbosity(loudness)
    return round(max(found["effort"], best.position if best else 0.0), 3), found.get("bits", 0)


def _as_trial(attempt: Attempt, space: dict[str, Any], max_drop: float) -> Any:
    from optuna.trial import create_trial

    effort = space["effort"]
    params = {"effort": min(effort.high, max(effort.low, attempt.position)), "bits": attempt.bits}
    return create_trial(
        params={key: params[key] for key in space},
        distributions=space,
        value=attempt.reached,
        constraints={"drop": min(attempt.drop, 1e3) - max_drop},
    )
