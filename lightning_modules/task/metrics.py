"""The predictions of an evaluation epoch, and the torchmetrics of classification and regression by name.

Longer than 200 lines: a table of metrics by name, and what builds them.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchmetrics import Metric, MetricCollection
from torchmetrics import classification as c
from torchmetrics import regression as r

from lightning_modules.config.errors import UserError, suggest

MAX_RANKS = 2**20


class PredictionBuffer:
    """Stores (outputs, targets, index) of every batch; `collect` returns each sample once."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, outputs: Tensor, y: Tensor, index: Tensor | None, rank: int = 0) -> None:
        """Store a batch: outputs [B, K], targets [B] or [B, D], index [B] (None: the ranks take the samples in turn)."""
        if index is None:
            first = sum(len(part[1]) for part in self._parts)
            index = torch.arange(first, first + len(y), device=y.device) * MAX_RANKS + rank
        self._parts.append((outputs.detach().float(), y, index))

    def collect(self, all_gather: Callable[[Tensor], Any] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Empty the buffer and return (outputs, targets, index), without padding; ordered by index if gathered.

        `all_gather` maps a tensor [N, …] of each of W processes to [W, N, …].
        """
        if not self._parts:
            raise RuntimeError("no predictions to collect: the evaluation set is empty")
        outputs, y, index = (torch.cat(part) for part in zip(*self._parts, strict=True))
        self._parts = []
        if all_gather is None:
            return outputs, y, index
        missing = int(all_gather(torch.tensor(len(index), device=index.device)).max()) - len(index)
        if missing:  # N must be the same in all processes: the last sample is repeated
            outputs, y, index = (
                torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) for part in (outputs, y, index)
            )
        outputs, y, index = (all_gather(part).flatten(0, 1) for part in (outputs, y, index))
        order = index.argsort(stable=True)
        first = torch.ones_like(order, dtype=torch.bool)
        first[1:] = index[order][1:] != index[order][:-1]
        kept = order[first]
        return outputs[kept], y[kept], index[kept]


Names = Mapping[str, Sequence[Any]]  # of each stage: names, or objects of torchmetrics
# every process has all predictions (`PredictionBuffer`), so metrics must not be summed over ranks
NO_SYNC = {"sync_on_compute": False}
_MAX_SUFFIX_LENGTH = 200  # characters of a class name within a metric name; MLflow allows 250 in total
_SIZE_ARGUMENT = {"multiclass": "num_classes", "multilabel": "num_labels"}
# names, and the classes of torchmetrics without Binary, Multiclass or Multilabel: of each class or label, and of all together
_BY_CLASS = {
    "precision": "Precision", "recall": "Recall", "f1": "F1Score", "auroc": "AUROC", "pr_auc": "AveragePrecision",
}  # fmt: skip
_OVERALL = {"mcc": "MatthewsCorrCoef", "kappa": "CohenKappa", "ece": "CalibrationError"}


def select_metrics(metrics: Mapping[str, Sequence[str | Metric] | None] | None, default: Names) -> Names:
    """The metrics of ``val`` and ``test``, from `metrics` or else `default`: names, and objects of torchmetrics.

    Raises UserError for other stages, and for objects that are no metrics.
    """
    given = {stage: names for stage, names in (metrics or {}).items() if names is not None}
    for stage, names in given.items():
        if stage not in default or isinstance(names, str | Metric):
            raise UserError(f"task.metrics.{stage}={names}: expected a list of names under val or test")
        for i, metric in enumerate(names):
            if not isinstance(metric, str | Metric):
                raise UserError(
                    f"task.metrics.{stage}[{i}]: {type(metric).__name__} is not a metric; give a name, or a "
                    "_target_ derived from torchmetrics.Metric"
                )
    return {**default, **given}


def metric_suffixes(members: Sequence[str]) -> list[str]:
    """Return the metric name suffix of each class or target: unique, and only characters that MLflow allows.

    Names that differ only in other characters, such as "C++" and "C##", get their class number appended.
    """
    plain = [re.sub(r"[^\w. -]", "_", name)[:_MAX_SUFFIX_LENGTH] for name in members]
    plain = [name if name.strip(".") else "_" * max(1, len(name)) for name in plain]  # no "." and ".." in a path
    counts = Counter(plain)
    unique = [name if counts[name] == 1 else f"{name}-{i}" for i, name in enumerate(plain)]
    return unique if len(set(unique)) == len(unique) else [f"{name}-{i}" for i, name in enumerate(plain)]


def classification_metrics(kind: str, size: int, names: Sequence[str | Metric], top_k: int) -> MetricCollection:
    """Metrics of probabilities [N, size] (binary: [N]) against classes [N] or labels [N, size].

    Averages are macro over the classes that have samples; ``accuracy`` is the fraction of correct samples (micro), and
    ``class_…`` has one value per class. Raises UserError for a name that this kind of task does not have.
    """
    prefix = kind.capitalize()
    of: dict[str, Any] = NO_SYNC if kind == "binary" else {_SIZE_ARGUMENT[kind]: size, **NO_SYNC}
    micro = of if kind == "binary" else {**of, "average": "micro"}
    known: dict[str, Callable[[], Metric]] = {"accuracy": lambda: getattr(c, f"{prefix}Accuracy")(**micro)}
    known |= {
        name: partial(getattr(c, prefix + cls), **of) for name, cls in _OVERALL.items() if hasattr(c, prefix + cls)
    }
    classes = ("multiclass", 2) if kind == "binary" else (kind, size)  # each of the two classes is one of a binary task
    for name, cls in _BY_CLASS.items():
        known[name] = partial(_over_classes, cls, kind, size)
        known[f"class_{name}"] = partial(_over_classes, cls, *classes, each=True)
    if kind == "multilabel":
        known["class_accuracy"] = lambda: c.MultilabelAccuracy(**of, average="none")
    else:
        known |= {"balanced_accuracy": partial(_over_classes, "Recall", *classes), "brier": lambda: Brier(size)}
    if kind == "multiclass":
        known["class_accuracy"] = lambda: ClassAccuracy(**of, average="none")
        if size > top_k:
            known[f"top{top_k}_accuracy"] = lambda: c.MulticlassAccuracy(top_k=top_k, **micro)
    wanted = [f"top{top_k}_accuracy" if isinstance(name, str) and name == "top_k" else name for name in names]
    return _build_collection(known, wanted, kind, optional={f"top{top_k}_accuracy", "class_accuracy"})


def _over_classes(cls: str, kind: str, size: int, each: bool = False) -> Metric:
    """A metric of torchmetrics over the classes or labels: its mean, or `each` value."""
    of = NO_SYNC if kind == "binary" else {_SIZE_ARGUMENT[kind]: size, "average": "none", **NO_SYNC}
    per_class = getattr(c, kind.capitalize() + cls)(**of)
    return MacroAverage(per_class, kind, size, needs_negatives=cls == "AUROC", each=each)


class MacroAverage(Metric):
    """The mean of a metric over the classes or labels that have samples; NaN if none has.

    Args:
        per_class: the metric without averaging; one value (the positive class) for ``binary``.
        kind, size: see `classification_metrics`.
        needs_negatives: whether classes that all samples belong to are excluded too.
        each: the value of each class instead, NaN for those excluded.
    """

    full_state_update = False
    samples: Tensor
    total: Tensor

    def __init__(
        self, per_class: Metric, kind: str, size: int, needs_negatives: bool = False, each: bool = False
    ) -> None:
        super().__init__(**NO_SYNC)
        self.per_class, self.kind, self.size, self.needs_negatives = per_class, kind, size, needs_negatives
        self.average, self.num_classes = "none" if each else "macro", size
        self.add_state("samples", torch.zeros(1 if kind == "binary" else size, dtype=torch.int64), "sum")
        self.add_state("total", torch.tensor(0), "sum")

    def update(self, scores: Tensor, target: Tensor) -> None:
        """Add probabilities and targets, shaped as in `classification_metrics`; [N] of the second of two classes, too."""
        if self.kind == "multiclass" and scores.ndim == 1:
            scores, target = torch.stack([1 - scores, scores], -1), target.reshape(-1)
        self.per_class.update(scores, target)
        self.samples = self.samples + samples_per_class(target, self.kind, self.size)
        self.total = self.total + len(target)

    def compute(self) -> Tensor:
        """The mean; equal to torchmetrics' macro average if every class has samples."""
        defined = self.samples > 0
        if self.needs_negatives:
            defined &= self.samples < self.total
        values = self.per_class.compute().reshape(-1)
        if self.average == "none":
            return values.where(defined, torch.nan)
        values = values[defined]
        if not len(values):
            return torch.tensor(torch.nan, device=values.device)
        return values.mean() if self.needs_negatives else (values / len(values)).sum()

    def reset(self) -> None:
        super().reset()
        self.per_class.reset()


def samples_per_class(target: Tensor, kind: str, size: int) -> Tensor:
    """Number of samples int64 [size] of each class [N] or label [N, size]; [1], the positive class, for ``binary``."""
    if kind == "multiclass":
        return target.bincount(minlength=size)
    return target.reshape(len(target), -1).long().sum(0)


class ClassAccuracy(c.MulticlassAccuracy):
    """The accuracy within each class; NaN for classes without samples."""

    def compute(self) -> Tensor:
        values: Tensor = super().compute()
        return values.where(self.tp + self.fn > 0, torch.nan)  # type: ignore[operator]


class Brier(r.MeanSquaredError):
    """Brier's score: the squared error of the probabilities [N, size], summed over classes; of [N] that of the second one."""

    def __init__(self, size: int) -> None:
        super().__init__(**NO_SYNC)
        self.size = size

    def update(self, scores: Tensor, target: Tensor) -> None:
        super().update(scores, target.float() if scores.ndim == 1 else one_hot(target, self.size).float())

    def compute(self) -> Tensor:
        return super().compute() * self.size


class R2(r.R2Score):
    """R squared; NaN for fewer than two samples."""

    def compute(self) -> Tensor:
        return super().compute() if self.total >= 2 else torch.full_like(self.residual, torch.nan).mean()


def regression_metrics(size: int, names: Sequence[str | Metric]) -> MetricCollection:
    """Metrics of values [N, size] against targets [N, size]: mse, mae, rmse, r2. Raises UserError for an unknown name."""
    known: dict[str, Callable[[], Metric]] = {
        "mse": lambda: r.MeanSquaredError(**NO_SYNC),
        "rmse": lambda: r.MeanSquaredError(squared=False, **NO_SYNC),
        "mae": lambda: r.MeanAbsoluteError(**NO_SYNC),
        "r2": lambda: R2(sync_on_compute=False),
    }
    return _build_collection(known, names, "regression")


def _build_collection(
    known: Mapping[str, Callable[[], Metric]], wanted: Sequence[str | Metric], task: str, optional: Collection[str] = ()
) -> MetricCollection:
    """The `wanted` metrics; those of torchmetrics by the name of their class. `optional` names may be missing in `known`."""
    built: dict[str, Metric | MetricCollection] = {}
    for metric in wanted:
        if isinstance(metric, Metric):
            name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(metric).__name__).lower()
            if name in built:
                raise UserError(f"task.metrics: two metrics are {name}; derive a class of another name for one of them")
            for part in metric.modules():  # wrappers hold metrics
                part.__dict__.update(NO_SYNC)
            built[name] = metric
        elif metric in known:
            built[metric] = known[metric]()
        elif metric not in optional:
            options = suggest(metric, {*known, *optional})
            raise UserError(f"task.metrics: unknown metric '{metric}' for a {task} task; {options}")
    return MetricCollection(built, compute_groups=False)
