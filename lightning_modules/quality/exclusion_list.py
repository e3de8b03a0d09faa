"""List of samples to exclude, which a datamodule reads as ``data.exclude=FILE``; description and checks of a split."""

from dataclasses import asdict

import numpy as np
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict
from lightning_modules.data.in_memory import InMemoryData
from lightning_modules.quality.drift import label_shift
from lightning_modules.quality.duplicate_samples import conflicts, leaks
from lightning_modules.quality.findings import Findings
from lightning_modules.quality.label_errors import class_balance
from lightning_modules.quality.samples import Samples

PART_RANK = {"test": 0, "val": 1, "train": 2, "unused": 3}  # of two copies, that of lower rank is kept
ALPHA = 0.01  # p-value of the class shares below which a part counts as not stratified


def exclusions(findings: Findings) -> dict[str, object]:
    """Apply the rules: {"data", "content", "criteria", "excluded": [{"index", "part", "why"}, …]}.

    Samples of the test part are never listed, so that test results stay comparable.

    Raises UserError if label errors are requested, but cannot be detected.
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
            rule = rules.leaks if leak else rules.duplicates  # exact ones are near, too
            if rule == "near" or rule == kind:
                why[i] = f"{kind} duplicate of {_describe(samples, original)}{' (leak)' if leak else ''}"
                break


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


def describe_split(findings: Findings) -> dict[str, object]:
    """Return indices and class counts of each part, and the checks: name -> {"holds": …, "found": …}."""
    samples, data = findings.samples, findings.samples.data
    counts = class_balance(samples)
    parts = {
        part: {**counts.get(part, {"samples": 0}), "indices": data.splits[part].tolist()}
        for part in ("train", "val", "test")
    }
    return {
        "data": samples.name,
        "content": data.content_fingerprint(),
        "fingerprint": data.fingerprint(),
        "official_test": len(samples.stores) > 1,  # its indices count within the test part
        "unused": int((samples.parts == "unused").sum()),
        "parts": parts,
        "checks": {"disjoint": _disjoint(data), "stratified": _stratified(findings), "leak_free": _leak_free(findings)},
    }


def _disjoint(data: InMemoryData) -> dict[str, object]:
    official = data.arrays.test is not None
    pool = [data.splits[part] for part in ("train", "val", *(() if official else ("test",)))]
    twice = sum(len(part) for part in pool) - len(torch.cat(pool).unique())
    twice += len(data.splits["test"]) - len(data.splits["test"].unique()) if official else 0
    return {"holds": twice == 0, "found": f"{twice} duplicate indices"}


def _stratified(findings: Findings) -> dict[str, object]:
    """Check the targets of validation and test against those of training."""
    samples = findings.samples
    y = samples.y.numpy()
    train = y[samples.members("train")]
    found: PlainDict = {"holds": True, "found": "one part"}
    said = []
    for part in ("val", "test"):
        own = y[samples.members(part)]
        if not len(own):
            continue
        p = label_shift(train, own)["p"]
        lacking = samples.num_classes and len(np.setdiff1d(train, own))
        said.append(f"{part}: " + ("not compared" if p is None else f"p {p:.2g}"))
        said[-1] += f", {lacking} classes are missing" if lacking else ""
        found["holds"] = found["holds"] and (p is None or p >= ALPHA)
    return {**found, "found": "; ".join(said)} if said else found


def _leak_free(findings: Findings) -> dict[str, object]:
    """Check that no group of equal or near samples is in two parts."""
    across = leaks(findings.duplicates, findings.samples)
    said = ", ".join(f"{len(groups)} groups in {parts}" for parts, groups in sorted(across.items()))
    return {"holds": not across, "found": said or "no group of near duplicates in two parts"}
