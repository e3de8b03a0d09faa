"""Duplicate samples: exact, near, across parts (leaks), and with conflicting labels."""

import hashlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from lightning_modules.quality.samples import Samples


@dataclass(frozen=True)
class Duplicates:
    """Groups of equal samples and pairs of similar samples.

    Attributes:
        exact: positions of each group of equal samples, in order.
        near: int64 [P, 2], pairs of similar samples; of equal samples, only the first is used.
        similarity: of the pairs, float64 [P].
    """

    exact: list[np.ndarray]
    near: np.ndarray
    similarity: np.ndarray

    def groups(self, count: int) -> list[np.ndarray]:
        """Return the connected groups of samples, each in order."""
        chains = [link for group in self.exact for link in pairwise(group.tolist())]
        return groups_of(np.concatenate([np.array(chains, np.int64).reshape(-1, 2), self.near]), count)

    def representatives(self, count: int) -> np.ndarray:
        """Return the first sample of the group of each of `count` samples (itself if it has none): [N]."""
        first = np.arange(count)
        for group in self.groups(count):
            first[group] = group[0]
        return first


def exact_groups(samples: Samples) -> list[np.ndarray]:
    """Return groups of samples with bitwise equal raw values (by sha256)."""
    known: dict[bytes, list[int]] = {}
    for index in samples.chunks():
        for position, row in zip(index.tolist(), samples.read(index).contiguous().numpy(), strict=True):
            known.setdefault(hashlib.sha256(row.tobytes()).digest(), []).append(position)
    return [np.array(group) for group in known.values() if len(group) > 1]


def without_repeats(groups: list[np.ndarray], count: int) -> np.ndarray:
    """Return all positions except the second and later ones of each group."""
    kept = np.ones(count, bool)
    for group in groups:
        kept[group[1:]] = False
    return np.flatnonzero(kept)


def groups_of(pairs: np.ndarray, count: int) -> list[np.ndarray]:
    """Return the connected components of more than one sample, sorted by their first sample."""
    if not len(pairs):
        return []
    links = sparse.coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    label = connected_components(links, directed=False)[1]
    members = np.unique(pairs)  # only these can be in a group
    order = members[np.argsort(label[members], kind="stable")]
    found = np.split(order, np.flatnonzero(np.diff(label[order])) + 1)
    return sorted(found, key=lambda group: int(group[0]))


def leaks(duplicates: Duplicates, samples: Samples) -> dict[str, list[list[int]]]:
    """Return groups across train, val and test, by their parts: ``train+test`` -> groups of positions."""
    found: dict[str, list[list[int]]] = {}
    for group in duplicates.groups(len(samples)):
        parts = [part for part in ("train", "val", "test") if (samples.parts[group] == part).any()]
        if len(parts) > 1:
            found.setdefault("+".join(parts), []).append(group.tolist())
    return found


def conflicts(groups: list[np.ndarray], samples: Samples) -> list[np.ndarray]:
    """Return the groups whose members have different labels or targets (NaN equals NaN)."""
    y = samples.y.numpy()
    return [group for group in groups if not all(np.array_equal(y[group[0]], y[i], equal_nan=True) for i in group[1:])]


def summarize_duplicates(duplicates: Duplicates, samples: Samples) -> dict[str, object]:
    """Return the counts for the report."""
    count = len(samples)
    close = duplicates.groups(count)
    across = leaks(duplicates, samples)
    return {
        "exact_groups": len(duplicates.exact),
        "exact_copies": sum(len(group) - 1 for group in duplicates.exact),  # beyond the first of each group
        "near_pairs": len(duplicates.near),
        "near_groups": len(close),
        "near_copies": sum(len(group) - 1 for group in close),  # including exact copies
        "conflicting_exact_groups": len(conflicts(duplicates.exact, samples)),
        "conflicting_near_pairs": sum(len(conflicts([pair], samples)) for pair in duplicates.near),
        "leaks": {parts: len(groups) for parts, groups in sorted(across.items())},
        "leaked_training_samples": sum(
            int((samples.parts[group] == "train").sum())
            for groups in across.values()
            for group in groups
            if (samples.parts[group] == "test").any()
        ),
    }
