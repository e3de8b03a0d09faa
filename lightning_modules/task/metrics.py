"""The torchmetrics by name, for each kind of target."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torchmetrics import Metric, MetricCollection
from torchmetrics import classification as c
from torchmetrics import regression as r

from lightning_modules.errors import UserError, nearest

Kind = str
Names = Mapping[str, Sequence[str]]
# Every process has all predictions (`buffer.py`), so no metric shall add up what the others have.
ALONE = {"sync_on_compute": False}
_CLASSES = {"multiclass": "num_classes", "multilabel": "num_labels"}


def chosen(metrics: Mapping[str, Sequence[str] | None] | None, default: Names) -> Names:
    """The metric names of ``val`` and ``test``: the `default` where `metrics` gives none. Raises UserError otherwise."""
    given = {stage: names for stage, names in (metrics or {}).items() if names is not None}
    for stage, names in given.items():
        if stage not in default or isinstance(names, str):
            raise UserError(f"task.metrics.{stage}={names}: it must be val=[names] or test=[names]")
    return {**default, **given}


def classification_metrics(kind: Kind, size: int, names: Sequence[str], top_k: int) -> MetricCollection:
    """Metrics of probabilities [N, size] (binary: [N]) against classes [N] or labels [N, size].

    Averages are macro over classes, as is usual for little and unbalanced data; ``accuracy`` alone is the fraction
    of right samples (micro). Raises UserError for an unknown name.
    """
    prefix = kind.capitalize()
    of: dict[str, Any] = ALONE if kind == "binary" else {_CLASSES[kind]: size, **ALONE}
    macro = of if kind == "binary" else {**of, "average": "macro"}
    micro = of if kind == "binary" else {**of, "average": "micro"}
    known: dict[str, Callable[[], Metric]] = {
        "accuracy": lambda: getattr(c, f"{prefix}Accuracy")(**micro),
        "precision": lambda: getattr(c, f"{prefix}Precision")(**macro),
        "recall": lambda: getattr(c, f"{prefix}Recall")(**macro),
        "f1": lambda: getattr(c, f"{prefix}F1Score")(**macro),
        "auroc": lambda: getattr(c, f"{prefix}AUROC")(**macro),
    }
    if kind != "binary":
        known["class_accuracy"] = lambda: getattr(c, f"{prefix}Accuracy")(**{**of, "average": "none"})
    if kind == "multiclass" and size > top_k:
        known[f"top{top_k}_accuracy"] = lambda: c.MulticlassAccuracy(top_k=top_k, **micro)
    wanted = [f"top{top_k}_accuracy" if name == "top_k" else name for name in names]
    optional = {f"top{top_k}_accuracy", "class_accuracy"}
    return _collect({name: known[name] for name in wanted if name in known}, wanted, known.keys() | optional)


def regression_metrics(size: int, names: Sequence[str]) -> MetricCollection:
    """Metrics of values [N, size] against targets [N, size]: mse, mae, rmse, r2. Raises UserError for an unknown name."""
    known: dict[str, Callable[[], Metric]] = {
        "mse": lambda: r.MeanSquaredError(**ALONE),
        "rmse": lambda: r.MeanSquaredError(squared=False, **ALONE),
        "mae": lambda: r.MeanAbsoluteError(**ALONE),
        "r2": lambda: r.R2Score(sync_on_compute=False),
    }
    return _collect({name: known[name] for name in names if name in known}, names, known.keys())


def _collect(
    builders: dict[str, Callable[[], Metric]], wanted: Sequence[str], known: Collection[str]
) -> MetricCollection:
    for name in wanted:
        if name not in known:
            raise UserError(f"task.metrics: there is no metric '{name}'; {nearest(name, known)}")
    return MetricCollection({name: build() for name, build in builders.items()}, compute_groups=False)
