"""Description of a split: indices and classes of each part, and checks (disjoint, stratified, free of leaks)."""

from typing import Any

import numpy as np
import torch

from lightning_modules.data.in_memory import InMemoryData
from lightning_modules.quality.drift import label_shift
from lightning_modules.quality.duplicate_samples import leaks
from lightning_modules.quality.findings import Findings
from lightning_modules.quality.label_errors import class_balance

ALPHA = 0.01  # p-value of the class shares below which a part counts as not stratified


def describe_split(findings: Findings) -> dict[str, Any]:
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


def _disjoint(data: InMemoryData) -> dict[str, Any]:
    official = data.arrays.test is not None
    pool = [data.splits[part] for part in ("train", "val", *(() if official else ("test",)))]
    twice = sum(len(part) for part in pool) - len(torch.cat(pool).unique())
    twice += len(data.splits["test"]) - len(data.splits["test"].unique()) if official else 0
    return {"holds": twice == 0, "found": f"{twice} duplicate indices"}


def _stratified(findings: Findings) -> dict[str, Any]:
    """Check the targets of validation and test against those of training."""
    samples = findings.samples
    y = samples.y.numpy()
    train = y[samples.members("train")]
    found: dict[str, Any] = {"holds": True, "found": "one part"}
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


def _leak_free(findings: Findings) -> dict[str, Any]:
    """Check that no group of equal or near samples is in two parts."""
    across = leaks(findings.duplicates, findings.samples)
    said = ", ".join(f"{len(groups)} groups in {parts}" for parts, groups in sorted(across.items()))
    return {"holds": not across, "found": said or "no group of near duplicates in two parts"}
