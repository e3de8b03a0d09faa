"""Drift: tests whether two groups of samples have the same distribution, per column, jointly, and of the labels."""

from typing import Any

import numpy as np
from scipy import sparse, stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from lightning_modules.config.plain import PlainDict
from lightning_modules.report.statistics import holm

MAX_CATEGORIES = 12  # distinct values up to which a column is compared by chi-squared
MAX_SAMPLES = 4000  # samples per side for the classifier
MAX_COLUMNS = 200  # compared columns: the first raw columns, or the leading components


def compare_distributions(x_a: Any, x_b: Any, names: list[str], seed: int = 0) -> dict[str, object]:
    """Compare two sets of rows [N, D] and [M, D].

    Each column by a Kolmogorov-Smirnov test (chi-squared if it has few values) with Holm correction; jointly by the
    out-of-fold area under the ROC of a classifier that separates the two (Lopez-Paz & Oquab 2017; 0.5 if they are alike)
    with the p-value of Mann and Whitney.
    """
    columns = (
        [] if sparse.issparse(x_a) else [_column(x_a[:, k], x_b[:, k]) for k in range(min(len(names), MAX_COLUMNS))]
    )
    adjusted = holm([p for _, _, p in columns])
    rows: list[PlainDict] = [
        {"column": name, "test": test, "statistic": statistic, "p": p, "p_holm": corrected}
        for name, (test, statistic, p), corrected in zip(names, columns, adjusted, strict=False)
    ]
    auc, p = two_sample_auc(x_a, x_b, seed)
    return {
        "samples": [int(x_a.shape[0]), int(x_b.shape[0])],
        "columns": rows,
        "drifted_columns": sum(row["p_holm"] < 0.05 for row in rows),
        "auc": auc,
        "auc_p": p,
    }


def _column(a: np.ndarray, b: np.ndarray) -> tuple[str, float, float]:
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    if not len(a) or not len(b):
        return "ks", float("nan"), 1.0
    values = np.unique(np.concatenate([a, b]))
    if len(values) <= MAX_CATEGORIES:
        return "chi2", *_chi2([[(side == v).sum() for v in values] for side in (a, b)])
    found = stats.ks_2samp(a, b, method="asymp")
    return "ks", float(found.statistic), float(found.pvalue)


def _chi2(table: object) -> tuple[float, float]:
    counts = np.asarray(table, float)
    counts = counts[:, counts.sum(0) > 0]
    if counts.shape[1] < 2 or (counts.sum(1) == 0).any():
        return 0.0, 1.0
    found = stats.chi2_contingency(counts, correction=False)
    return float(found.statistic), float(found.pvalue)


def two_sample_auc(x_a: Any, x_b: Any, seed: int = 0, folds: int = 5) -> tuple[float | None, float | None]:
    """Return out-of-fold AUC and p-value of a logistic regression between the two; None if there are too few samples."""
    draws = np.random.RandomState(seed)
    sides = [x[np.sort(draws.permutation(x.shape[0])[:MAX_SAMPLES])] for x in (x_a, x_b)]
    if min(side.shape[0] for side in sides) < 2 * folds:
        return None, None
    y = np.repeat([0, 1], [side.shape[0] for side in sides])
    if sparse.issparse(x_a):
        x = sparse.vstack(sides).tocsr()
    else:
        x = np.concatenate(sides).astype(np.float64)
        x = np.nan_to_num((x - np.nanmean(x, 0)) / np.maximum(np.nanstd(x, 0), 1e-12))
    model = LogisticRegression(C=0.1, max_iter=200, class_weight="balanced")
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    score = cross_val_predict(model, x, y, cv=parts, method="decision_function")
    # the models' scores have different scales: compare ranks within the fold
    for _, test in parts.split(x, y):
        score[test] = stats.rankdata(score[test]) / (len(test) + 1)
    p = stats.mannwhitneyu(score[y == 1], score[y == 0], alternative="greater").pvalue
    return float(roc_auc_score(y, score)), float(p)


def label_shift(y_a: np.ndarray, y_b: np.ndarray) -> PlainDict:
    """Compare classes by chi-squared, other targets by Kolmogorov-Smirnov; not for targets with several columns."""
    if y_a.ndim > 1:
        return {"test": None, "statistic": None, "p": None}
    if np.issubdtype(y_a.dtype, np.integer):
        classes = max(int(y_a.max(initial=0)), int(y_b.max(initial=0))) + 1
        statistic, p = _chi2([np.bincount(y, minlength=classes) for y in (y_a, y_b)])
        return {"test": "chi2", "statistic": statistic, "p": p}
    test, statistic, p = _column(y_a, y_b)
    return {"test": test, "statistic": statistic, "p": p}
