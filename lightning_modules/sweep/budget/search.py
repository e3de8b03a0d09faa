"""What to try next: less where the quality fell, more where there is room, other bits where the goal is not met.

An effort says how much is compressed: 0 is the dense network, 1 the goal (`Goal.effort`). Quality is taken to fall with it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

EFFORT_RESOLUTION = 0.05  # of the effort: what is closer than that is not told apart
OVERSHOOT = 1.3  # where nothing failed yet, the next attempt lies halfway to so many times the effort
MAX_GOAL_ATTEMPTS = 3  # attempts at the goal itself with the same bits: the size that they gave corrects the next one
MIN_EFFORT, MAX_EFFORT = 0.05, 4.0  # of an effort
MIN_BITS, MAX_BITS = 2, 8


@dataclass(frozen=True)
class Attempt:
    """Attributes:
    aim: the effort that was tried; bits: of a kept weight (0: none are shared).
    reached: the effort that was measured; None where it failed or still runs.
    drop: of the quality; infinite where it failed.
    """

    target: float
    bits: int
    reached: float | None = None
    drop: float = math.inf
    runs: bool = False

    @property
    def position(self) -> float:
        """Where it lies between dense and goal; by its aim where it gave nothing to be measured."""
        return self.target if self.reached is None else self.reached


Point = tuple[float, int]  # effort and bits


def propose(attempts: Sequence[Attempt], bits: int, max_drop: float) -> Point | None:
    """The next point to try; None where nothing is left to be halved, or while it depends on what still runs.

    Args:
        bits: to begin with; 0 where no weights are shared.
    """
    if not attempts:
        return 1.0, bits
    running = [attempt for attempt in attempts if attempt.runs]
    if running:
        return _parallel_point(attempts, running[0], bits)
    best = best_attempt(attempts, max_drop)
    if best is None or best.position < 1:
        return _retry_goal(attempts, best, bits, max_drop) or _back_off(attempts, best, max_drop)
    low, high = best.position, _lowest_failed_effort(attempts, best.bits, best.position, max_drop)
    return _midpoint(low, low * OVERSHOOT if math.isinf(high) else high, best.bits)


def best_attempt(attempts: Sequence[Attempt], max_drop: float) -> Attempt | None:
    """The attempt of the highest effort that keeps the quality."""
    good = [a for a in attempts if a.reached is not None and a.drop <= max_drop]
    return max(good, key=lambda attempt: attempt.position, default=None)


def _bit_variants(bits: int) -> list[int]:
    """The bits to begin with, and their neighbours."""
    near = [bits - 1, bits + 1] if bits else []
    return [bits, *(b for b in near if MIN_BITS <= b <= MAX_BITS)]


def _retry_goal(attempts: Sequence[Attempt], best: Attempt | None, bits: int, max_drop: float) -> Point | None:
    """The goal itself, with bits that have not failed at it or before; first those that came closest."""
    order = dict.fromkeys(([best.bits] if best else []) + _bit_variants(bits))
    for variant in order:
        own = [a for a in attempts if a.bits == variant]
        failed = any(a.drop > max_drop for a in own)
        if not failed and sum(a.target == 1.0 for a in own) < MAX_GOAL_ATTEMPTS:
            return 1.0, variant
    return None


def _back_off(attempts: Sequence[Attempt], best: Attempt | None, max_drop: float) -> Point | None:
    """Halfway from where the quality holds to where it does not, with the bits that lost least."""
    bits = best.bits if best else min(attempts, key=lambda a: (a.drop, a.position)).bits
    low = best.position if best else 0.0
    return _midpoint(low, _lowest_failed_effort(attempts, bits, low, max_drop), bits)


def _lowest_failed_effort(attempts: Sequence[Attempt], bits: int, low: float, max_drop: float) -> float:
    bad = [a.position for a in attempts if a.bits == bits and a.drop > max_drop and a.position > low]
    return min(bad, default=math.inf)


def _midpoint(low: float, high: float, bits: int) -> Point | None:
    """The middle; None where it cannot be told from the ends."""
    if math.isinf(high) or low >= MAX_EFFORT or high - low < 2 * EFFORT_RESOLUTION:
        return None
    return min(MAX_EFFORT, max(MIN_EFFORT, round((low + high) / 2, 3))), bits


def _parallel_point(attempts: Sequence[Attempt], running: Attempt, bits: int) -> Point | None:
    """With several jobs at a time: the effort that runs now, with other bits."""
    tried = {a.bits for a in attempts if abs(a.target - running.target) < EFFORT_RESOLUTION}
    return next(((running.target, other) for other in _bit_variants(bits) if other not in tried), None)
