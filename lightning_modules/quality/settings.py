"""What is looked for and what counts as wrong: the keys of conf/quality.yaml, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from lightning_modules.errors import UserError, nearest
from lightning_modules.quality.labels import CLASSIFIERS, Classifier
from lightning_modules.quality.samples import PARTS

NEAR = {"image": 0.99, "series": 0.99, "audio": 0.998, "text": 0.9, "table": 0.999}
KINDS = ("exact", "near", "none")


@dataclass(frozen=True)
class Rules:
    """What `clean` puts on its list; see conf/quality.yaml. A count of None means all."""

    duplicates: str = "exact"
    leaks: str = "near"
    conflicts: bool = True
    label_errors: int | None = 0
    outliers: int | None = 0


@dataclass(frozen=True)
class Settings:
    """What is looked for; see conf/quality.yaml."""

    near: float | None = None
    components: int = 128
    outlier_z: float = 3.5
    classifier: Classifier = "logistic"
    folds: int = 5
    drift: tuple[str, str] = ("train", "test")
    seed: int = 0
    rules: Rules = Rules()

    def threshold(self, domain: str) -> float:
        """The similarity from which samples of this kind are near duplicates."""
        return NEAR.get(domain, 1.0) if self.near is None else float(self.near)


def settings_of(cfg: Mapping[str, Any]) -> Settings:
    """Read the plain values of conf/quality.yaml.

    Raises:
        UserError: with all mistakes in them at once.
    """
    labels, rules = cfg["labels"], dict(cfg["clean"])
    problems = [*_number(cfg, "near", 0, 1, None), *_number(cfg, "outlier_z", 0, float("inf"))]
    problems += _whole("components", cfg["components"], 1) + _whole("labels.folds", labels["folds"], 2)
    problems += _whole("seed", cfg["seed"], 0)
    problems += _one_of("labels.classifier", labels["classifier"], CLASSIFIERS)
    for key in ("duplicates", "leaks"):
        rules[key] = "none" if rules[key] is None else rules[key]
        problems += _one_of(f"clean.{key}", rules[key], KINDS)
    if not isinstance(rules["conflicts"], bool):
        problems.append(f"clean.conflicts={rules['conflicts']}: it can be: false, true")
    for key in ("label_errors", "outliers"):
        problems += [] if rules[key] == "all" else _whole(f"clean.{key}", rules[key], 0, " or all")
        rules[key] = None if rules[key] == "all" else rules[key]
    parts = tuple(cfg["drift"] or ())
    if len(parts) != 2:
        problems.append(f"drift={list(parts)}: two parts are compared, as in drift=[train,test]")
    problems += [problem for part in parts for problem in _one_of("drift", part, PARTS)]
    if problems:
        raise UserError("\n".join(problems))
    plain = {key: cfg[key] for key in ("near", "components", "outlier_z", "seed")}
    known = {field.name for field in fields(Rules)}
    return Settings(
        **plain, classifier=labels["classifier"], folds=labels["folds"], drift=(str(parts[0]), str(parts[1])),
        rules=Rules(**{key: value for key, value in rules.items() if key in known}),
    )  # fmt: skip


def _number(cfg: Mapping[str, Any], key: str, low: float, high: float, *also: Any) -> list[str]:
    value = cfg[key]
    right = isinstance(value, int | float) and not isinstance(value, bool) and low < value <= high
    return [] if right or value in also else [f"{key}={value}: a number above {low:g} and up to {high:g} is wanted"]


def _whole(key: str, value: Any, least: int, more: str = "") -> list[str]:
    right = isinstance(value, int) and not isinstance(value, bool) and value >= least
    return [] if right else [f"{key}={value}: a whole number of at least {least}{more} is wanted"]


def _one_of(key: str, value: Any, options: tuple[str, ...]) -> list[str]:
    return [] if value in options else [f"{key}={value}: {nearest(str(value), options)}"]
