"""Settings of the quality checks: the validated keys of conf/quality.yaml."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from lightning_modules.config.bounds import Count, Positive, Whole, mismatch
from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict
from lightning_modules.quality.label_errors import Classifier
from lightning_modules.quality.samples import Part

NEAR_THRESHOLDS = {"image": 0.99, "series": 0.99, "audio": 0.998, "text": 0.9, "table": 0.999}
Kind = Literal["exact", "near", "none"]
RULES: dict[str, object] = {  # what the keys of conf/quality.yaml may be
    "near": Annotated[float, Gt(0), Le(1)] | None,
    "components": Count,
    "outlier_z": Positive,
    "seed": Whole,
    "labels.classifier": Classifier,
    "labels.folds": Annotated[int, Ge(2)],
    "clean.duplicates": Kind | None,
    "clean.leaks": Kind | None,
    "clean.conflicts": bool,
    "clean.label_errors": Whole | Literal["all"],
    "clean.outliers": Whole | Literal["all"],
    "drift": list[Part],
}


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


def parse_settings(cfg: PlainDict) -> QualitySettings:
    """Parse the plain values of conf/quality.yaml. Raises UserError listing all mistakes."""
    parts, problems = tuple(cfg["drift"] or ()), []
    for key, hint in RULES.items():
        group, _, name = key.rpartition(".")
        value = cfg[group][name] if group else cfg[name]
        if mistake := mismatch(value, hint):
            problems.append(f"{key}={value}: {mistake}")
    if len(parts) != 2:
        problems.append(f"drift={list(parts)}: expected two parts, for example drift=[train,test]")
    if problems:
        raise UserError("\n".join(problems))
    rules = {key: {None: "none", "all": None}.get(value, value) for key, value in cfg["clean"].items()}
    plain = {key: cfg[key] for key in ("near", "components", "outlier_z", "seed")} | dict(cfg["labels"])
    return QualitySettings(**plain, drift=parts, rules=ExclusionRules(**rules))
