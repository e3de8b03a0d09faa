"""Detection of all quality issues of a data set, and the report.

Longer than 200 lines: each check has its part of the report.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.data.in_memory import InMemoryData
from lightning_modules.quality import duplicate_samples as twice
from lightning_modules.quality.drift import MAX_COLUMNS, compare_distributions, label_shift
from lightning_modules.quality.duplicate_samples import Duplicates
from lightning_modules.quality.embedding import Embedding, WordEmbedding, embed
from lightning_modules.quality.label_errors import LabelErrors, class_balance, find_label_errors
from lightning_modules.quality.samples import Samples, collect_samples
from lightning_modules.quality.settings import QualitySettings
from lightning_modules.quality.similar_pairs import find_similar_pairs
from lightning_modules.quality.table_columns import describe_columns
from lightning_modules.quality.value_statistics import column_outliers, describe_values, find_outliers

MAX_LISTED = 100  # samples or groups listed in the report
MIN_CLASSIFIER_ACCURACY = 0.9  # out of fold; below it, suspected label errors are mostly errors of the classifier


@dataclass
class Findings:
    """Detected issues.

    Attributes:
        embedding: None if samples cannot be compared (ids of users and items, or no finite values).
        nearest: similarity of each sample to its nearest neighbour [N], NaN for exact copies and without embedding.
        outliers: positions, the farthest first, with `outlier_z` [N].
        errors: suspected label errors; None if they cannot be detected.
        notes: which checks were skipped, and why.
    """

    samples: Samples
    settings: QualitySettings
    embedding: Embedding | WordEmbedding | None
    duplicates: Duplicates
    nearest: np.ndarray
    outliers: np.ndarray
    outlier_z: np.ndarray
    errors: LabelErrors | None
    notes: list[str] = field(default_factory=list)


def find_issues(data: InMemoryData, settings: QualitySettings, wants_labels: bool = True) -> Findings:
    """Detect duplicates, outliers and label errors in a set-up datamodule."""
    samples = collect_samples(data)
    notes: list[str] = []
    embedding = _embedding(samples, settings, notes)
    exact = twice.exact_groups(samples)
    count = len(samples)
    pairs, similarity, nearest = np.zeros((0, 2), np.int64), np.zeros(0), np.full(count, np.nan)
    outliers, z = np.zeros(0, np.int64), np.zeros(count)
    if embedding is not None:
        found = find_similar_pairs(embedding, settings.threshold(samples.domain), twice.without_repeats(exact, count))
        pairs, similarity, nearest = found.pairs, found.similarity, found.nearest
        z, outliers = find_outliers(embedding, settings.outlier_z)
    duplicates = Duplicates(exact, pairs, similarity)
    errors = _errors(samples, embedding, duplicates, settings, notes) if wants_labels and embedding else None
    return Findings(samples, settings, embedding, duplicates, nearest, outliers, z, errors, notes)


def _embedding(samples: Samples, settings: QualitySettings, notes: list[str]) -> Embedding | WordEmbedding | None:
    try:
        found = embed(samples, settings.components)
    except UserError as error:
        notes.append(f"no near duplicates, outliers or label errors: {error}")
        return None
    if found is None:
        notes.append("no near duplicates, outliers or label errors: ids of users and items have no distance")
    return found


def _errors(
    samples: Samples, embedding: Embedding | WordEmbedding, duplicates: Duplicates, settings: QualitySettings,
    notes: list[str],
) -> LabelErrors | None:  # fmt: skip
    groups = duplicates.representatives(len(samples))
    try:
        found = find_label_errors(samples, embedding, groups, settings.classifier, settings.folds, settings.seed)
    except UserError as error:
        notes.append(str(error))
        return None
    if found.accuracy < MIN_CLASSIFIER_ACCURACY:
        notes.append(
            f"label errors: out-of-fold accuracy of {settings.classifier} is only {found.accuracy:.0%}: most suspects are "
            "hard samples; try labels.classifier=knn or boosting"
        )
    if found.left_out:
        names = ", ".join((samples.class_names or [])[k] for k in found.left_out[:10])
        notes.append(f"label errors: too few samples for {settings.folds} folds of: {names}")
    return found


def build_report(findings: Findings, other: InMemoryData | None = None) -> dict[str, object]:
    """Return the report as plain values; `other` is a datamodule to compare with (drift)."""
    samples, settings = findings.samples, findings.settings
    drifted = _drift(findings, other)
    return {
        "data": samples.name,
        "content": samples.data.content_fingerprint(),
        "domain": samples.domain,
        "samples": len(samples),
        "balance": class_balance(samples),
        "values": describe_values(samples),
        "columns": describe_columns(samples.data, settings.outlier_z),
        "duplicates": {
            "near_threshold": settings.threshold(samples.domain),
            **twice.summarize_duplicates(findings.duplicates, samples),
        },
        "outliers": _outliers(findings),
        "label_errors": _label_errors(findings),
        "drift": drifted,
        "listed": _listed(findings),
        "notes": findings.notes,
    }


def _outliers(findings: Findings) -> dict[str, object]:
    samples, limit = findings.samples, findings.settings.outlier_z
    columns = column_outliers(samples, limit)
    return {
        "limit_z": limit,
        "isolated": len(findings.outliers),
        "far_in_a_column": None if columns is None else int((columns > 0).sum()),
        "farthest": [
            {"sample": samples.describe(int(i)), "z": round(float(min(findings.outlier_z[i], 1e9)), 2)}
            for i in findings.outliers[:MAX_LISTED]
        ],
    }


def _label_errors(findings: Findings) -> dict[str, object] | None:
    errors, samples = findings.errors, findings.samples
    if errors is None:
        return None
    return {
        "classifier": findings.settings.classifier,
        "out_of_fold_accuracy": errors.accuracy,
        "found": len(errors.positions),
        "estimated_noise": float(1 - errors.joint.trace() / max(errors.joint.sum(), 1)),
        "likeliest": [
            {
                "sample": samples.describe(int(i)),
                "label": samples.label(int(i)),
                "suggested": (samples.class_names or [])[int(k)],
                "margin": round(float(m), 4),
            }
            for i, k, m in zip(errors.positions[:MAX_LISTED], errors.suggested, errors.margin, strict=False)
        ],
    }


def _listed(findings: Findings) -> dict[str, object]:
    samples, found = findings.samples, findings.duplicates
    order = np.argsort(-found.similarity, kind="stable")[:MAX_LISTED]
    across = twice.leaks(found, samples)
    return {
        "exact": [[samples.describe(int(i)) for i in group] for group in found.exact[:MAX_LISTED]],
        "near": [
            {
                "samples": [samples.describe(int(i)) for i in found.near[k]],
                "similarity": round(float(found.similarity[k]), 5),
            }
            for k in order
        ],
        "leaks": {
            parts: [[samples.describe(i) for i in group] for group in groups[:MAX_LISTED]]
            for parts, groups in across.items()
        },
    }


def _drift(findings: Findings, other: InMemoryData | None) -> dict[str, object] | None:
    samples, settings = findings.samples, findings.settings
    if other is not None:
        return _drift_between(samples, collect_samples(other), settings)
    a, b = settings.drift
    sides = [samples.members(part) for part in (a, b)]
    if findings.embedding is None or not all(len(side) for side in sides):
        lacking = [part for part, side in zip((a, b), sides, strict=True) if not len(side)]
        findings.notes.append(
            f"drift: the part {lacking[0]} is empty" if lacking else "drift: samples have no distance"
        )
        return None
    x, names = _columns(samples, findings.embedding)
    y = samples.y.numpy()
    found = compare_distributions(x[sides[0]], x[sides[1]], names, settings.seed)
    return {"between": [a, b], **found, "labels": label_shift(y[sides[0]], y[sides[1]])}


def _drift_between(samples: Samples, others: Samples, settings: QualitySettings) -> dict[str, object]:
    """Compare the pools of two data sets in one joint embedding."""
    if samples.shape != others.shape or samples.domain != others.domain or samples.domain in ("text", "interactions"):
        raise UserError(
            f"data@other: {others.name} ({others.domain} of {list(others.shape)}) cannot be compared with "
            f"{samples.name} ({samples.domain} of {list(samples.shape)}): both must have the same shape, and not consist of ids"
        )
    size = len(samples.stores[0])
    both = Samples(
        samples.name, samples.domain, (samples.stores[0], others.stores[0]), torch.zeros(size + len(others.stores[0])),
        np.full(size + len(others.stores[0]), "unused"), None, samples.data,
    )  # fmt: skip
    embedding = embed(both, settings.components)
    assert embedding is not None
    x, names = _columns(both, embedding)
    y_a, y_b = samples.y[:size].numpy(), others.y[: len(others.stores[0])].numpy()
    comparable = samples.class_names == others.class_names and y_a.dtype == y_b.dtype
    shift = label_shift(y_a, y_b) if comparable else {"test": None, "statistic": None, "p": None}
    return {
        "between": [samples.name, others.name],
        **compare_distributions(x[:size], x[size:], names, settings.seed),
        "labels": shift,
    }


def _columns(samples: Samples, embedding: Embedding | WordEmbedding) -> tuple[Any, list[str]]:
    """Return the columns to compare: the raw columns of a table, else the leading components; no names for texts."""
    x = embedding.matrix()
    if isinstance(embedding, WordEmbedding):
        return x, []
    if samples.domain == "table" and x.shape[1] == int(np.prod(samples.shape)):
        raw = torch.cat([samples.read(index).flatten(1) for index in samples.chunks()]).double().numpy()
        return raw, [f"column {k}" for k in range(x.shape[1])]
    if not embedding.exact:
        x = x[:, ::-1]  # eigenvalues are ascending
        return x, [f"component {k}" for k in range(min(x.shape[1], MAX_COLUMNS))]
    return x, [f"value {k}" for k in range(x.shape[1])]
