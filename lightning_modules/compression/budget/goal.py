"""The goal of a search, and the stages' settings that should reach it. Longer than 200 lines: one converts to the other."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge
from omegaconf import DictConfig

from lightning_modules.compression.budget.search import Point
from lightning_modules.config.errors import UserError
from lightning_modules.config.task_groups import is_supervised
from lightning_modules.sweep.search_space import to_overrides

RATIO_NAMES = {"size_ratio": "smaller", "macs_ratio": "fewer macs", "latency_ratio": "faster"}
_COSTS = {"size_ratio": "size_bytes", "macs_ratio": "macs", "latency_ratio": "latency_ms"}
_MEASURED = {"size_ratio": "compression/ratio", "latency_ratio": "compression/speedup_best_runtime"}
RECIPE = "prune_and_share"  # of all attempts
STAGES = "compression.stages"
SPARSITY_KEY, BITS_KEY = f"{STAGES}.prune.sparsity", f"{STAGES}.share.bits"
KEPT_RATIO_KEYS = {key: f"{STAGES}.structure.{key}" for key in ("macs_ratio", "latency_ratio")}
MARGIN = 1.01  # above the target: a goal that is missed by a byte is missed
SLOPE = 0.85  # of log(gained) over log(requested): names, scales and other tensors do not shrink along
MIN_KEPT, MAX_KEPT = 0.02, 0.98
FLOAT_BITS = 32
MAX_SPARSITY = 0.995


@dataclass(frozen=True)
class Goal:
    """Attributes:
    ratios: how many times smaller (``size_ratio``), cheaper (``macs_ratio``) or faster (``latency_ratio``), above 1.
    max_drop: of `metric`, on the validation part: absolute if higher is better, else relative to the dense network's.
    trials: maximum number of attempts; patience: attempts without an improvement after which the search ends.
    """

    ratios: dict[str, float]
    max_drop: Annotated[float, Ge(0)]
    metric: str
    higher_is_better: bool
    trials: int = 12
    patience: int = 3

    @property
    def objectives(self) -> dict[str, str]:
        """The metrics by which attempts are compared -> direction."""
        costs = {f"compressed/{_COSTS[key]}": "minimize" for key in self.ratios}
        return {**costs, f"compressed/{self.metric}": "maximize" if self.higher_is_better else "minimize"}

    def drop(self, metrics: Mapping[str, float]) -> float:
        """How much worse the compressed network is than the dense one; infinite if that was not measured."""
        dense, own = (metrics.get(f"{side}/{self.metric}", math.nan) for side in ("dense", "compressed"))
        drop = dense - own if self.higher_is_better else (own - dense) / max(abs(dense), 1e-12)
        return drop if math.isfinite(drop) else math.inf

    def gains(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The measured value of each ratio of the goal; those that were not measured are left out."""
        found = {key: metrics[name] for key, name in _MEASURED.items() if key in self.ratios and name in metrics}
        if "macs_ratio" in self.ratios and metrics.get("compressed/macs"):
            found["macs_ratio"] = metrics["dense/macs"] / metrics["compressed/macs"]
        return found

    def effort(self, metrics: Mapping[str, float]) -> float:
        """The progress from the dense network (0) to the goal (1) and beyond, on a log scale; the smallest of all ratios."""
        gains = self.gains(metrics)
        if gains.keys() != self.ratios.keys():
            return 0.0
        return min(math.log(max(gains[key], 1e-9)) / math.log(goal) for key, goal in self.ratios.items())

    def targets(self, effort: float) -> dict[str, float]:
        """The ratios at an effort."""
        return {key: goal**effort for key, goal in self.ratios.items()}

    def allows(self, drop: float) -> bool:
        """Whether the drop is at most `max_drop`, up to rounding errors."""
        return drop <= self.max_drop + 1e-9

    def describe(self) -> str:
        """The goal as it is typed."""
        return " ".join(f"{key}={value:g}" for key, value in {**self.ratios, "max_drop": self.max_drop}.items())


def make_goal(
    ratios: Mapping[str, float | None], max_drop: float, config: DictConfig, trials: int = 12, patience: int = 3
) -> Goal:
    """The goal for the metric that the config's task monitors. Raises UserError that lists every mistake."""
    given = {key: value for key, value in ratios.items() if value is not None}
    metric, own = str(config.task.monitor.metric), is_supervised(config)
    mistakes = []
    if not given:
        mistakes.append("a goal is missing: give size_ratio, macs_ratio or latency_ratio, as in size_ratio=10")
    if {"macs_ratio", "latency_ratio"} <= given.keys():
        mistakes.append(
            "macs_ratio and latency_ratio exclude each other: channels are removed until one is met; give one"
        )
    if not own and config.task.monitor.metric is None:
        mistakes.append("task.monitor.metric=null: max_drop is measured in it; train with a metric of validation_step")
    if own and not metric.startswith("val/"):
        mistakes.append(f"task.monitor.metric={metric}: max_drop is measured on the validation part: val/…")
    if config.data.get("val_fraction") == 0:
        mistakes.append("data.val_fraction=0: max_drop is measured on the validation part, and there is none")
    if mistakes:
        raise UserError("\n".join(mistakes))
    return Goal(given, max_drop, metric, config.task.monitor.mode == "max", trials, patience)


# --- the settings of the stages that are expected to reach a goal ---------------------------------------------------
@dataclass(frozen=True)
class Request:
    """The ratios that an attempt was expected to reach, and those that it reached."""

    point: Point
    requested: dict[str, float]
    gains: dict[str, float]


def chosen_keys(goal: Goal) -> list[str]:
    """The config keys that a search for this goal chooses."""
    channels = [KEPT_RATIO_KEYS[key] for key in KEPT_RATIO_KEYS if key in goal.ratios]
    return channels + [SPARSITY_KEY, BITS_KEY] * ("size_ratio" in goal.ratios)


def values_for(goal: Goal, point: Point, earlier: Sequence[Request]) -> tuple[dict[str, object], dict[str, float]]:
    """The values of `chosen_keys` (None: without that stage) for a point, and the ratios that they should reach.

    The ratios that earlier attempts reached correct the requested ones.
    """
    effort, bits = point
    requested = {
        key: _corrected_ratio(key, MARGIN * target, point, earlier) for key, target in goal.targets(effort).items()
    }
    values: dict[str, object] = {}
    from_channels = 1.0  # by removed channels
    for key in KEPT_RATIO_KEYS.keys() & goal.ratios.keys():
        kept = max(MIN_KEPT, round(1 / requested[key], 4))
        if "size_ratio" not in goal.ratios:
            kept = min(kept, MAX_KEPT)
        values[KEPT_RATIO_KEYS[key]] = kept if kept <= MAX_KEPT else None
        from_channels = requested[key] = 1 / kept if kept <= MAX_KEPT else 1.0
    if "size_ratio" in goal.ratios:
        bits = max(bits, max_bits_without_zeros(requested["size_ratio"] / from_channels))  # no fewer than it takes
        sparsity = sparsity_for(requested["size_ratio"] / from_channels, bits)
        values |= {SPARSITY_KEY: sparsity or None, BITS_KEY: bits}
        requested["size_ratio"] = from_channels * size_ratio(sparsity, bits)
    return values, requested


def _corrected_ratio(key: str, target: float, point: Point, earlier: Sequence[Request]) -> float:
    """The ratio to request so that about `target` is reached: a power law through the closest attempts."""
    known = [e for e in earlier if key in e.gains and e.point[1] == point[1]] or [e for e in earlier if key in e.gains]
    if not known:
        return target
    known = sorted(known, key=lambda e: abs(math.log(e.gains[key] / target)))
    near = known[0]
    slope = SLOPE
    for other in known[1:]:
        if (
            abs(apart := math.log(other.requested[key] / near.requested[key])) > 0.02
            and other.point[1] == near.point[1]
        ):
            slope = min(1.5, max(0.3, math.log(other.gains[key] / near.gains[key]) / apart))
            break
    return near.requested[key] * (target / near.gains[key]) ** (1 / slope)


def attempt_overrides(values: Mapping[str, object], dense: str, stage_overrides: Sequence[str]) -> list[str]:
    """The overrides of an attempt.

    Args:
        values: of `values_for`. dense: id of the run to compress.
        stage_overrides: the user's own.
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


# --- the size of a network, estimated --------------------------------------------------------------------------------
def size_ratio(sparsity: float, bits: float) -> float:
    """How many times smaller than float32 the weights are, without names, scales and other tensors.

    A weight takes the entropy of its position, and `bits` if it is not zero.
    """
    positions = -sum(p * math.log2(p) for p in (sparsity, 1 - sparsity)) if sparsity > 0 else 0.0
    return FLOAT_BITS / ((1 - sparsity) * bits + positions)


def sparsity_for(ratio: float, bits: float) -> float:
    """The smallest sparsity that makes the weights so many times smaller; 0 if `bits` suffice, at most 0.995."""
    if size_ratio(0.0, bits) >= ratio:
        return 0.0
    low, high = 1 / (1 + 2**bits), MAX_SPARSITY  # up to `low` the positions cost more than the zeros save
    if size_ratio(high, bits) <= ratio:
        return high
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (middle, high) if size_ratio(middle, bits) < ratio else (low, middle)
    return round(high, 4)


def max_bits_without_zeros(ratio: float) -> int:
    """The largest number of bits, at most 8, that suffices without zeros; less than 1: zeros are needed."""
    return min(8, math.floor(FLOAT_BITS / ratio))


def first_bits(ratio: float) -> int:
    """5, as for the fully connected layers of Deep Compression (Han et al. 2016), or more if that suffices without zeros."""
    return max(5, max_bits_without_zeros(ratio))
