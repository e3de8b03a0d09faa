"""What the stages of an attempt are told so that it comes out as small, cheap or fast as is aimed at."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_modules.sweep.budget.goal import Goal
from lightning_modules.sweep.budget.search import Point
from lightning_modules.sweep.budget.size_estimate import max_bits_without_zeros, size_ratio, sparsity_for
from lightning_modules.sweep.search_space import to_overrides

RECIPE = "prune_and_share"  # what the attempts are made with
STAGES = "compression.stages"
SPARSITY_KEY, BITS_KEY = f"{STAGES}.prune.sparsity", f"{STAGES}.share.bits"
KEPT_RATIO_KEYS = {key: f"{STAGES}.structure.{key}" for key in ("macs_ratio", "latency_ratio")}
MARGIN = 1.01  # beyond what is aimed at: a goal that is missed by a byte is missed
SLOPE = 0.85  # of gained over asked for, in logarithms: names, scales and what is not compressed do not shrink along
MIN_KEPT, MAX_KEPT = 0.02, 0.98


@dataclass(frozen=True)
class Request:
    """What an attempt was asked for, by ratio, and what it gained."""

    point: Point
    asked: dict[str, float]
    gains: dict[str, float]


def chosen_keys(goal: Goal) -> list[str]:
    """The keys of the config that a search to this goal chooses."""
    channels = [KEPT_RATIO_KEYS[key] for key in KEPT_RATIO_KEYS if key in goal.ratios]
    return channels + [SPARSITY_KEY, BITS_KEY] * ("size_ratio" in goal.ratios)


def values_for(goal: Goal, point: Point, earlier: Sequence[Request]) -> tuple[dict[str, Any], dict[str, float]]:
    """The values of `chosen_keys` (None: without that stage) for a point, and the ratios that they are expected to give.

    What an earlier attempt gained beside what it was asked for corrects what is asked for now.
    """
    effort, bits = point
    asked = {
        key: _corrected_ratio(key, MARGIN * target, point, earlier) for key, target in goal.targets(effort).items()
    }
    values: dict[str, Any] = {}
    thinner = 1.0  # by removed channels
    for key in KEPT_RATIO_KEYS.keys() & goal.ratios.keys():
        kept = max(MIN_KEPT, round(1 / asked[key], 4))
        if "size_ratio" not in goal.ratios:
            kept = min(kept, MAX_KEPT)
        values[KEPT_RATIO_KEYS[key]] = kept if kept <= MAX_KEPT else None
        thinner = asked[key] = 1 / kept if kept <= MAX_KEPT else 1.0
    if "size_ratio" in goal.ratios:
        bits = max(bits, max_bits_without_zeros(asked["size_ratio"] / thinner))  # no fewer than it takes
        sparsity = sparsity_for(asked["size_ratio"] / thinner, bits)
        values |= {SPARSITY_KEY: sparsity or None, BITS_KEY: bits}
        asked["size_ratio"] = thinner * size_ratio(sparsity, bits)
    return values, asked


def _corrected_ratio(key: str, target: float, point: Point, earlier: Sequence[Request]) -> float:
    """The ratio to ask for so that about `aim` is gained: a power law through the attempts that are closest to the point."""
    known = [e for e in earlier if key in e.gains and e.point[1] == point[1]] or [e for e in earlier if key in e.gains]
    if not known:
        return target
    known = sorted(known, key=lambda e: abs(math.log(e.gains[key] / target)))
    near = known[0]
    slope = SLOPE
    for other in known[1:]:
        if abs(apart := math.log(other.asked[key] / near.asked[key])) > 0.02 and other.point[1] == near.point[1]:
            slope = min(1.5, max(0.3, math.log(other.gains[key] / near.gains[key]) / apart))
            break
    return near.asked[key] * (target / near.gains[key]) ** (1 / slope)


def attempt_overrides(values: Mapping[str, Any], dense: str, stage_overrides: Sequence[str]) -> list[str]:
    """The overrides of an attempt.

    Args:
        values: of `values_for`. dense: id of the run to compress.
        told: the user's own words about the stages.
    """
    given = {key: value for key, value in values.items() if value is not None}
    left_out = {key.rsplit(".", 1)[0] for key, value in values.items() if value is None}
    left_out |= {f"{STAGES}.structure"} - {key.rsplit(".", 1)[0] for key in values}
    if BITS_KEY not in values:
        left_out |= {f"{STAGES}.prune", f"{STAGES}.share"}
    if KEPT_RATIO_KEYS["latency_ratio"] in given:
        given = {KEPT_RATIO_KEYS["macs_ratio"]: None, **given}
    overrides = [
        f"compression={RECIPE}",
        *stage_overrides,
        *to_overrides(given),
        *(f"{stage}=null" for stage in sorted(left_out)),
    ]
    return [*overrides, f"init_from={dense}", "trainer.max_epochs=0"]
