"""What the stages of an attempt are told so that it comes out as small, cheap or fast as is aimed at."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_modules.sweep.budget.back_off import Point
from lightning_modules.sweep.budget.goal import Goal
from lightning_modules.sweep.budget.size import size_ratio, spare_bits, sparsity_for
from lightning_modules.sweep.space import to_overrides

RECIPE = "prune_and_share"  # what the attempts are made with
STAGES = "compression.stages"
SPARSITY, BITS = f"{STAGES}.prune.sparsity", f"{STAGES}.share.bits"
KEPT = {key: f"{STAGES}.structure.{key}" for key in ("macs_ratio", "latency_ratio")}
MARGIN = 1.01  # beyond what is aimed at: a goal that is missed by a byte is missed
SLOPE = 0.85  # of gained over asked for, in logarithms: names, scales and what is not compressed do not shrink along
LEAST_KEPT, MOST_KEPT = 0.02, 0.98


@dataclass(frozen=True)
class Asked:
    """What an attempt was asked for, by ratio, and what it gained."""

    point: Point
    asked: dict[str, float]
    gains: dict[str, float]


def chosen_keys(goal: Goal) -> list[str]:
    """The keys of the config that a search to this goal chooses."""
    channels = [KEPT[key] for key in KEPT if key in goal.ratios]
    return channels + [SPARSITY, BITS] * ("size_ratio" in goal.ratios)


def values_for(goal: Goal, point: Point, earlier: Sequence[Asked]) -> tuple[dict[str, Any], dict[str, float]]:
    """The values of `chosen_keys` (None: without that stage) for a point, and the ratios that they are expected to give.

    What an earlier attempt gained beside what it was asked for corrects what is asked for now.
    """
    effort, bits = point
    asked = {key: _ask(key, MARGIN * aim, point, earlier) for key, aim in goal.aims(effort).items()}
    values: dict[str, Any] = {}
    thinner = 1.0  # by removed channels
    for key in KEPT.keys() & goal.ratios.keys():
        kept = max(LEAST_KEPT, round(1 / asked[key], 4))
        if "size_ratio" not in goal.ratios:
            kept = min(kept, MOST_KEPT)
        values[KEPT[key]] = kept if kept <= MOST_KEPT else None
        thinner = asked[key] = 1 / kept if kept <= MOST_KEPT else 1.0
    if "size_ratio" in goal.ratios:
        bits = max(bits, spare_bits(asked["size_ratio"] / thinner))  # no fewer than it takes
        sparsity = sparsity_for(asked["size_ratio"] / thinner, bits)
        values |= {SPARSITY: sparsity or None, BITS: bits}
        asked["size_ratio"] = thinner * size_ratio(sparsity, bits)
    return values, asked


def _ask(key: str, aim: float, point: Point, earlier: Sequence[Asked]) -> float:
    """The ratio to ask for so that about `aim` is gained: a power law through the attempts that are closest to the point."""
    known = [e for e in earlier if key in e.gains and e.point[1] == point[1]] or [e for e in earlier if key in e.gains]
    if not known:
        return aim
    known = sorted(known, key=lambda e: abs(math.log(e.gains[key] / aim)))
    near = known[0]
    slope = SLOPE
    for other in known[1:]:
        if abs(apart := math.log(other.asked[key] / near.asked[key])) > 0.02 and other.point[1] == near.point[1]:
            slope = min(1.5, max(0.3, math.log(other.gains[key] / near.gains[key]) / apart))
            break
    return near.asked[key] * (aim / near.gains[key]) ** (1 / slope)


def attempt_words(values: Mapping[str, Any], dense: str, told: Sequence[str]) -> list[str]:
    """The overrides of an attempt.

    Args:
        values: of `values_for`. dense: id of the run to compress.
        told: the user's own words about the stages.
    """
    given = {key: value for key, value in values.items() if value is not None}
    left_out = {key.rsplit(".", 1)[0] for key, value in values.items() if value is None}
    left_out |= {f"{STAGES}.structure"} - {key.rsplit(".", 1)[0] for key in values}
    if BITS not in values:
        left_out |= {f"{STAGES}.prune", f"{STAGES}.share"}
    if KEPT["latency_ratio"] in given:
        given = {KEPT["macs_ratio"]: None, **given}
    words = [f"compression={RECIPE}", *told, *to_overrides(given), *(f"{stage}=null" for stage in sorted(left_out))]
    return [*words, f"init_from={dense}", "trainer.max_epochs=0"]
