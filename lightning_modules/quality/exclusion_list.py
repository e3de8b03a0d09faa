"""List of samples to exclude, which a datamodule reads as ``data.exclude=FILE``."""

from dataclasses import asdict
from typing import Any

import numpy as np

from lightning_modules.config.errors import UserError
from lightning_modules.quality.duplicate_samples import conflicts
from lightning_modules.quality.findings import Findings
from lightning_modules.quality.samples import Samples

PART_RANK = {"test": 0, "val": 1, "train": 2, "unused": 3}  # of two copies, that of lower rank is kept


def exclusions(findings: Findings) -> dict[str, Any]:
    """Apply the rules: {"data", "content", "criteria", "excluded": [{"index", "part", "why"}, …]}.

    Samples of the test part are never listed, so that test results stay comparable.

    Raises:
        UserError: label errors are requested, but cannot be detected.
    """
    rules, samples = findings.settings.rules, findings.samples
    why: dict[int, str] = {}
    if rules.conflicts:
        _list_conflicts(findings, why)
    for kind in ("exact", "near"):
        if kind == "exact" or "near" in (rules.leaks, rules.duplicates):
            _list_duplicates(findings, kind, why)
    if rules.label_errors != 0:
        _list_label_errors(findings, why)
    if rules.outliers != 0:
        for i in findings.outliers[: rules.outliers]:
            why.setdefault(int(i), f"outlier, z {findings.outlier_z[i]:.1f}")
    listed = [i for i in sorted(why) if samples.parts[i] != "test"]
    entries = [{"index": samples.place(i)[1], "part": samples.place(i)[0], "why": why[i]} for i in listed]
    settings = findings.settings
    criteria = {
        "near": settings.threshold(samples.domain), "outlier_z": settings.outlier_z, "classifier": settings.classifier,
        "folds": settings.folds, "seed": settings.seed, **asdict(rules),
    }  # fmt: skip
    content = samples.data.content_fingerprint()
    return {"data": samples.name, "content": content, "criteria": criteria, "excluded": entries}


def _list_conflicts(findings: Findings, why: dict[int, str]) -> None:
    for group in conflicts(findings.duplicates.exact, findings.samples):
        for i in group.tolist():
            others = ", ".join(_describe(findings.samples, k) for k in group.tolist()[:6] if k != i)
            why[i] = f"equal to {others}, but with a different label"


def _list_duplicates(findings: Findings, kind: str, why: dict[int, str]) -> None:
    """List each copy of a kept sample; test is kept before val before train, then the earlier sample.

    A near duplicate is listed only if it is near a kept sample itself, not through a chain of others.
    """
    rules, samples, found = findings.settings.rules, findings.samples, findings.duplicates
    links = found.near
    if kind == "exact":  # all pairs of a group with its best
        best = [min(group.tolist(), key=lambda i: _rank(samples, i)) for group in found.exact]
        chained = [(b, i) for b, group in zip(best, found.exact, strict=True) for i in group.tolist() if i != b]
        links = np.array(chained, np.int64).reshape(-1, 2)
    partners: dict[int, list[int]] = {}
    for a, b in links.tolist():
        partners.setdefault(a, []).append(b)
        partners.setdefault(b, []).append(a)
    if kind == "near":
        partners = _expand_copies(partners, found.exact)
    for i in sorted(partners, key=lambda i: _rank(samples, i)):
        kept = [k for k in partners[i] if k not in why and _rank(samples, k) < _rank(samples, i)]
        if i in why or not kept:
            continue
        for original in sorted(kept, key=lambda k: _rank(samples, k)):
            leak = samples.parts[i] != "unused" and samples.parts[original] != samples.parts[i]
            if kind in _kinds_of(rules.leaks if leak else rules.duplicates):
                why[i] = f"{kind} duplicate of {_describe(samples, original)}{' (leak)' if leak else ''}"
                break


def _kinds_of(rule: str) -> tuple[str, ...]:
    return {"near": ("exact", "near"), "exact": ("exact",)}.get(rule, ())


def _expand_copies(partners: dict[int, list[int]], exact: list[np.ndarray]) -> dict[int, list[int]]:
    """Extend near pairs, found between the first of equal samples, to all their copies."""
    copies = {int(group[0]): group.tolist() for group in exact}
    wide: dict[int, list[int]] = {}
    for first, near in partners.items():
        others = [i for k in near for i in copies.get(k, [k])]
        for i in copies.get(first, [first]):
            wide[i] = others
    return wide


def _rank(samples: Samples, position: int) -> tuple[int, int]:
    return PART_RANK[str(samples.parts[position])], position


def _describe(samples: Samples, position: int) -> str:
    place, index = samples.place(position)
    return f"{place} {index}" if place == "test" else str(index)


def _list_label_errors(findings: Findings, why: dict[int, str]) -> None:
    errors, samples = findings.errors, findings.samples
    if errors is None:
        raise UserError(f"clean.label_errors={findings.settings.rules.label_errors}: {'; '.join(findings.notes)}")
    mine = [k for k, i in enumerate(errors.positions.tolist()) if samples.parts[i] != "test"]
    for k in mine[: findings.settings.rules.label_errors]:
        names = samples.class_names or []
        i = int(errors.positions[k])
        text = f"label {samples.label(i)}, likely {names[int(errors.suggested[k])]} (margin {errors.margin[k]:.2f})"
        why.setdefault(i, text)
