"""Settings of the quality checks: the validated keys of conf/quality.yaml."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.quality.label_errors import CLASSIFIERS, Classifier
from lightning_modules.quality.samples import PARTS

NEAR_THRESHOLDS = {"image": 0.99, "series": 0.99, "audio": 0.998, "text": 0.9, "table": 0.999}
KINDS = ("exact", "near", "none")


@dataclass(frozen=True)
class ExclusionRules:
    """Which samples `clean` excludes; see conf/quality.yaml. None as a count means all."""

    duplicates: str = "exact"
    leaks: str = "near"
    conflicts: bool = True
    label_errors: int | None = 0
    outliers: int | None = 0


@dataclass(frozen=True)
class QualitySettings:
    """Settings of the checks; see conf/quality.yaml."""

    near: float | None = None
    components: int = 128
    outlier_z: float = 3.5
    classifier: Classifier = "logistic"
    folds: int = 5
    drift: tuple[str, str] = ("train", "test")
    seed: int = 0
    rules: ExclusionRules = ExclusionRules()

    def threshold(self, domain: str) -> float:
        """Return the similarity from which samples of this domain are near duplicates."""
        return NEAR_THRESHOLDS.get(domain, 1.0) if self.near is None else float(self.near)


def parse_settings(cfg: Mapping[str, Any]) -> QualitySettings:
    """Parse the plain values of conf/quality.yaml. Raises UserError listing all mistakes."""
    labels, rules = cfg["labels"], dict(cfg["clean"])
    problems = [*_check_range(cfg, "near", 0, 1, None), *_check_range(cfg, "outlier_z", 0, float("inf"))]
    problems += _check_integer("components", cfg["components"], 1) + _check_integer("labels.folds", labels["folds"], 2)
    problems += _check_integer("seed", cfg["seed"], 0)
    problems += _check_choice("labels.classifier", labels["classifier"], CLASSIFIERS)
    for key in ("duplicates", "leaks"):
        rules[key] = "none" if rules[key] is None else rules[key]
        problems += _check_choice(f"clean.{key}", rules[key], KINDS)
    if not isinstance(rules["conflicts"], bool):
        problems.append(f"clean.conflicts={rules['conflicts']}: expected true or false")
    for key in ("label_errors", "outliers"):
        problems += [] if rules[key] == "all" else _check_integer(f"clean.{key}", rules[key], 0, " or all")
        rules[key] = None if rules[key] == "all" else rules[key]
    parts = tuple(cfg["drift"] or ())
    if len(parts) != 2:
        problems.append(f"drift={list(parts)}: expected two parts, for example drift=[train,test]")
    problems += [problem for part in parts for problem in _check_choice("drift", part, PARTS)]
    if problems:
        raise UserError("\n".join(problems))
    plain = {key: cfg[key] for key in ("near", "components", "outlier_z", "seed")}
    known = {field.name for field in fields(ExclusionRules)}
    return QualitySettings(
        **plain, classifier=labels["classifier"], folds=labels["folds"], drift=(str(parts[0]), str(parts[1])),
        rules=ExclusionRules(**{key: value for key, value in rules.items() if key in known}),
    )  # fmt: skip


def _check_range(cfg: Mapping[str, Any], key: str, low: float, high: float, *also: Any) -> list[str]:
    value = cfg[key]
    right = isinstance(value, int | float) and not isinstance(value, bool) and low < value <= high
    return [] if right or value in also else [f"{key}={value}: expected a number above {low:g}, at most {high:g}"]


def _check_integer(key: str, value: Any, least: int, more: str = "") -> list[str]:
    right = isinstance(value, int) and not isinstance(value, bool) and value >= least
    return [] if right else [f"{key}={value}: expected an integer of at least {least}{more}"]


def _check_choice(key: str, value: Any, options: tuple[str, ...]) -> list[str]:
    return [] if value in options else [f"{key}={value}: {suggest(str(value), options)}"]
