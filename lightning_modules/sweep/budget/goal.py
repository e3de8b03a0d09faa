"""What is wanted of a compressed network, and how far a measured one is from it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from lightning_modules.config.errors import UserError, suggest

RATIO_NAMES = {"size_ratio": "smaller", "macs_ratio": "fewer macs", "latency_ratio": "faster"}
GOAL_KEYS = (*RATIO_NAMES, "max_drop")  # at the top of the config, of compression=budget only
_SETTINGS = ("trials", "patience")
_MEASURED = {"size_ratio": "compression/ratio", "latency_ratio": "compression/speedup_best_runtime"}


@dataclass(frozen=True)
class Goal:
    """Attributes:
    ratios: how many times smaller (``size_ratio``), cheaper (``macs_ratio``) or faster (``latency_ratio``), above 1.
    max_drop: of `metric`, on the validation part: absolute where more is better, else relative to the dense network's.
    trials: attempts at most; patience: attempts without a better one, after which it ends.
    """

    ratios: dict[str, float]
    max_drop: float
    metric: str
    higher_is_better: bool
    trials: int = 12
    patience: int = 3

    @classmethod
    def of(cls, cfg: DictConfig) -> "Goal":
        """The goal that a config states. Raises UserError that lists every mistake in it."""
        mistakes = goal_mistakes(cfg)
        if mistakes:
            raise UserError("\n".join(mistakes))
        ratios = {key: float(cfg[key]) for key in RATIO_NAMES if cfg.get(key) is not None}
        monitor, settings = cfg.task.monitor, cfg.compression.budget
        return cls(
            ratios, float(cfg.max_drop), monitor.metric, monitor.mode == "max", settings.trials, settings.patience
        )

    @property
    def objectives(self) -> dict[str, str]:
        """What the attempts are compared by: metric -> direction."""
        costs = {"size_ratio": "size_bytes", "macs_ratio": "macs", "latency_ratio": "latency_ms"}
        found = {f"compressed/{costs[key]}": "minimize" for key in self.ratios}
        return {**found, f"compressed/{self.metric}": "maximize" if self.higher_is_better else "minimize"}

    def drop(self, metrics: Mapping[str, float]) -> float:
        """How much worse the compressed network is than the dense one; infinite where that was not measured."""
        dense, own = (metrics.get(f"{side}/{self.metric}", math.nan) for side in ("dense", "compressed"))
        drop = dense - own if self.higher_is_better else (own - dense) / max(abs(dense), 1e-12)
        return drop if math.isfinite(drop) else math.inf

    def gains(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """By what factor each of the wanted ratios was reached; those that were not measured are left out."""
        found = {key: metrics[name] for key, name in _MEASURED.items() if key in self.ratios and name in metrics}
        if "macs_ratio" in self.ratios and metrics.get("compressed/macs"):
            found["macs_ratio"] = metrics["dense/macs"] / metrics["compressed/macs"]
        return found

    def effort(self, metrics: Mapping[str, float]) -> float:
        """Where the network is on the way from the dense one (0) to the goal (1, and above it where it is beyond).

        Log scale; of several ratios the one that is furthest behind counts.
        """
        gains = self.gains(metrics)
        if gains.keys() != self.ratios.keys():
            return 0.0
        return min(math.log(max(gains[key], 1e-9)) / math.log(wanted) for key, wanted in self.ratios.items())

    def targets(self, effort: float) -> dict[str, float]:
        """The ratios at an effort."""
        return {key: wanted**effort for key, wanted in self.ratios.items()}

    def keeps(self, drop: float) -> bool:
        """Whether the quality holds; what a float cannot tell from `max_drop` does."""
        return drop <= self.max_drop + 1e-9

    def said(self) -> str:
        """The goal as it is typed."""
        return " ".join(f"{key}={value:g}" for key, value in {**self.ratios, "max_drop": self.max_drop}.items())


def goal_mistakes(cfg: DictConfig) -> list[str]:
    """What is wrong with the budget of a config."""
    given = {key: cfg.get(key) for key in RATIO_NAMES if cfg.get(key) is not None}
    mistakes = [f"compression=budget: nothing is wanted of it: give {_one_of(RATIO_NAMES)}, as in size_ratio=10"] * (
        not given
    )
    for key, value in given.items():
        if not _is_number(value) or not 1 < value < math.inf:
            mistakes.append(
                f"{key}={value}: how many times {RATIO_NAMES[key]}: a number above 1, as in {key}=2 for half"
            )
    if {"macs_ratio", "latency_ratio"} <= given.keys():
        mistakes.append("macs_ratio and latency_ratio: channels are removed until one of them is met; give one")
    drop = cfg.get("max_drop")
    if not _is_number(drop) or not 0 <= drop < math.inf:
        mistakes.append(f"max_drop={drop}: a number that is 0 or more")
    return mistakes + _monitor_mistakes(cfg) + _settings_mistakes(cfg.compression.budget)


def _monitor_mistakes(cfg: DictConfig) -> list[str]:
    mistakes = []
    metric = str(cfg.task.monitor.metric)
    if not metric.startswith("val/"):
        mistakes.append(f"task.monitor.metric={metric}: max_drop is judged on the validation part: val/…")
    if cfg.data.get("val_fraction") == 0:
        mistakes.append("data.val_fraction=0: max_drop is judged on the validation part, and there is none")
    if cfg.get("init_from") is None and cfg.trainer.max_epochs == 0:
        mistakes.append("trainer.max_epochs=0: the dense network would not be trained; init_from=RUN takes one")
    return mistakes


def _settings_mistakes(node: Any) -> list[str]:
    unknown = [key for key in map(str, node) if key not in _SETTINGS]
    mistakes = [f"compression.budget.{key}: there is no such setting; {suggest(key, _SETTINGS)}" for key in unknown]
    for key in _SETTINGS:
        value = node.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            mistakes.append(f"compression.budget.{key}={value}: a whole number, 1 or more")
    return mistakes


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _one_of(names: Any) -> str:
    *some, last = names
    return f"{', '.join(some)} or {last}"
