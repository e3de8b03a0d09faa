"""Class balance, and label errors by confident learning (Northcutt, Jiang & Chuang 2021, section 3)."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier

from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict
from lightning_modules.quality.embedding import Embedding, WordEmbedding
from lightning_modules.quality.samples import PARTS, Samples

Classifier = Literal["logistic", "knn", "boosting"]


@dataclass(frozen=True)
class LabelErrors:
    """Suspected label errors, sorted by margin.

    Attributes:
        positions: [M] of the samples.
        suggested: [M] class predicted by the classifier.
        margin: [M] probability of the given label minus that of the suggested one.
        joint: [K, K] confident joint as counts: rows are given labels, columns suspected true labels.
        accuracy: of the out-of-fold predictions, measured by the given labels.
        left_out: classes with too few samples for out-of-fold predictions.
    """

    positions: np.ndarray
    suggested: np.ndarray
    margin: np.ndarray
    joint: np.ndarray
    accuracy: float
    left_out: tuple[int, ...] = ()


def class_balance(samples: Samples) -> PlainDict:
    """Return size, class counts, imbalance ratio and normalized entropy (or moments of real-valued targets) of each part."""
    found: PlainDict = {}
    for part in PARTS:
        y = samples.y[samples.members(part)]
        if not len(y):
            continue
        if samples.num_classes is None:
            values = y.double()
            known = values[values.isfinite()]
            found[part] = {"samples": len(y), "missing": int((~values.isfinite()).sum())}
            if known.numel():
                spread = {"mean": known.mean(), "std": known.std(correction=0), "min": known.min(), "max": known.max()}
                found[part] |= {key: float(value) for key, value in spread.items()}
            continue
        counts = y.bincount(minlength=samples.num_classes).numpy()
        share = counts[counts > 0] / counts.sum()
        found[part] = {
            "samples": len(y),
            "counts": {name: int(n) for name, n in zip(samples.class_names or [], counts, strict=False)},
            "imbalance": float(counts.max() / counts.min()) if counts.min() else None,  # None: a class has no samples
            "entropy": float(-(share * np.log(share)).sum() / max(np.log(len(counts)), 1e-12)),
        }
    return found


def find_label_errors(
    samples: Samples,
    embedding: Embedding | WordEmbedding,
    groups: np.ndarray,
    classifier: Classifier = "logistic",
    folds: int = 5,
    seed: int = 0,
) -> LabelErrors:
    """Predict each label out of fold, and return those that contradict a confident prediction.

    Args:
        groups: [N], equal for near duplicates, which are kept in one fold: copies would confirm each other.

    Raises UserError if there are no classes, or fewer than two have a sample for each fold.
    """
    if samples.num_classes is None:
        raise UserError("label errors: the targets are not classes")
    y = samples.y.numpy()
    counts = np.bincount(y[np.unique(groups)], minlength=samples.num_classes)
    able = np.flatnonzero(counts >= folds)
    if len(able) < 2:
        raise UserError(
            f"label errors: {len(able)} of {samples.num_classes} classes have at least {folds} distinct samples, but two are "
            "required: lower labels.folds"
        )
    used = np.flatnonzero(np.isin(y, able) & np.isin(y[groups], able))
    given = np.searchsorted(able, y[used])
    probability = out_of_fold_probabilities(embedding.matrix()[used], given, groups[used], classifier, folds, seed)
    found, suggested, margin, joint = confident_learning(probability, given)
    return LabelErrors(
        used[found], able[suggested], margin, joint,
        float((probability.argmax(1) == given).mean()),
        tuple(int(k) for k in np.flatnonzero((counts < folds) & (counts > 0))),
    )  # fmt: skip


def out_of_fold_probabilities(
    x: Any, y: np.ndarray, groups: np.ndarray, classifier: Classifier = "logistic", folds: int = 5, seed: int = 0
) -> np.ndarray:
    """Return class probabilities [N, K], predicted by models trained without the sample's group."""
    first, member = np.unique(groups, return_index=True)[1], np.unique(groups, return_inverse=True)[1]
    probability = np.zeros((len(y), int(y.max()) + 1))
    for _, held_out in StratifiedKFold(folds, shuffle=True, random_state=seed).split(first, y[first]):
        test = np.isin(member, held_out)
        model = build_classifier(classifier, seed).fit(x[~test], y[~test])
        probability[np.ix_(test, model.classes_)] = model.predict_proba(x[test])
    return probability


def build_classifier(name: Classifier, seed: int = 0) -> ClassifierMixin:
    """Build the classifier of this name, for rows of squared norm about 1."""
    if name == "knn":
        return KNeighborsClassifier(15, weights="distance")
    if name == "boosting":
        return HistGradientBoostingClassifier(max_iter=100, random_state=seed)
    return LogisticRegression(C=3.0, max_iter=200)


def confident_learning(probability: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Estimate the number of wrong labels per class, and return that many samples with the lowest margins.

    The confident joint (eq. 1) counts samples whose probability of a class reaches the class's mean self-confidence
    (eq. 2); calibrated to the class counts (eq. 3), it gives the number to prune ("by class", section 3.2).

    Args:
        probability: out-of-fold [N, K].
        y: given labels [N].

    Returns:
        positions [M], suggested classes [M], margins [M] (ascending), the calibrated joint as counts [K, K].
    """
    joint = confident_joint(probability, y)
    own = probability[np.arange(len(y)), y]
    others = probability.copy()
    others[np.arange(len(y)), y] = -1
    suggested, margin = others.argmax(1), own - others.max(1)
    found = []
    for given, wrong in enumerate(joint.sum(1) - joint.diagonal()):
        members = np.flatnonzero(y == given)
        lowest = members[np.argsort(margin[members], kind="stable")][: round(wrong)]
        found.append(lowest[margin[lowest] < 0])
    every = np.concatenate(found)
    order = every[np.argsort(margin[every], kind="stable")]
    return order, suggested[order], margin[order], joint


def confident_joint(probability: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return calibrated counts [K, K]: rows given, columns suspected true; each row sums to the class count."""
    classes = probability.shape[1]
    present = np.bincount(y, minlength=classes)
    mass = np.array([probability[y == k, k].sum() for k in range(classes)])
    threshold = np.where(present > 0, mass / np.maximum(present, 1), np.inf)
    likely = np.where(probability >= threshold - 1e-12, probability, -1.0)
    sure = likely.max(1) >= 0
    joint = np.zeros((classes, classes))
    np.add.at(joint, (y[sure], likely.argmax(1)[sure]), 1)
    silent = joint.sum(1) == 0
    joint[silent, silent] = 1  # a class without confident samples has no suspected errors
    return joint * (present / joint.sum(1))[:, None]
