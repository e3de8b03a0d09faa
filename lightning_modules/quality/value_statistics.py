"""Statistics of raw values: range, missing values, constant columns and outliers."""

from typing import Any

import numpy as np
import torch

from lightning_modules.quality.embedding import Embedding, WordEmbedding
from lightning_modules.quality.samples import Samples
from lightning_modules.quality.similar_pairs import knn_distance

MAX_LISTED = 20  # columns listed in the report
MAX_COLUMNS = 1000  # columns up to which outliers are detected per column


def describe_values(samples: Samples) -> dict[str, object]:
    """Return shape, dtype, range, missing values, constant columns (positions) and constant samples (such as silence)."""
    low: Any = None
    high: Any = None
    missing = np.zeros(int(np.prod(samples.shape)), np.int64)
    gaps, still = 0, 0
    for index in samples.chunks():
        x = samples.read(index).flatten(1)
        known = x.isfinite() if x.is_floating_point() else torch.ones_like(x, dtype=torch.bool)
        missing += (~known).sum(0).numpy()
        gaps += int((~known).any(1).sum())
        still += int((x == x[:, :1]).all(1).sum()) if x.shape[1] > 1 else 0
        lowest = torch.where(known, x, _dtype_limits(x)[1]).amin(0)
        highest = torch.where(known, x, _dtype_limits(x)[0]).amax(0)
        low, high = (lowest, highest) if low is None else (torch.minimum(low, lowest), torch.maximum(high, highest))
    constant = ((low == high) & torch.from_numpy(missing == 0)).nonzero().flatten().tolist()
    empty = np.flatnonzero(missing == len(samples)).tolist()
    has_any = len(empty) < len(missing)
    return {
        "shape": list(samples.shape),
        "dtype": str(samples.dtype).removeprefix("torch."),
        "min": low.min().item() if has_any else None,
        "max": high.max().item() if has_any else None,
        "missing_values": int(missing.sum()),
        "samples_with_missing": gaps,
        "columns_with_missing": _worst_columns({int(k): int(missing[k]) for k in np.flatnonzero(missing)}),
        "empty_columns": empty[:MAX_LISTED],
        "constant_columns": len(constant),
        "constant_columns_first": constant[:MAX_LISTED],
        "constant_samples": still,
    }


def _dtype_limits(x: torch.Tensor) -> tuple[float, float]:
    info = torch.finfo(x.dtype) if x.is_floating_point() else torch.iinfo(x.dtype)
    return info.min, info.max


def _worst_columns(counts: dict[int, int]) -> dict[str, int]:
    worst = sorted(counts.items(), key=lambda item: -item[1])[:MAX_LISTED]
    return {str(column): count for column, count in worst}


def robust_z(values: np.ndarray) -> np.ndarray:
    """Return |value - median| / (1.4826 MAD) per column [N, D]; 0 for NaN and if the MAD is 0."""
    middle = np.nanmedian(values, axis=0)
    away = np.abs(values - middle)
    spread = 1.4826 * np.nanmedian(away, axis=0)
    return np.nan_to_num(np.divide(away, spread, out=np.zeros_like(away), where=spread > 0), posinf=np.inf)


def column_outliers(samples: Samples, limit: float) -> np.ndarray | None:
    """Return the highest robust z of any column of each sample [N]; None except for tables and series, or if too wide."""
    if samples.domain not in ("table", "series") or int(np.prod(samples.shape)) > MAX_COLUMNS:
        return None
    x = torch.cat([samples.read(index).flatten(1).double() for index in samples.chunks()]).numpy()
    known = np.isfinite(x).any(0)  # a column without values has no median
    highest = robust_z(np.where(np.isinf(x), np.nan, x)[:, known]).max(1, initial=0)
    return np.where(highest >= limit, highest, 0)


def find_outliers(embedding: Embedding | WordEmbedding, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the robust z of each sample's log distance to its neighbours [N], and the positions of those above `limit`.

    Logarithms, because distances are skewed; the farthest samples come first.
    """
    score = np.log(np.maximum(knn_distance(embedding), 1e-9))
    away = score - np.median(score)
    spread = 1.4826 * np.median(np.abs(away))
    z = away / spread if spread > 0 else np.where(away > 1e-6, np.inf, 0.0)
    order = np.argsort(-z, kind="stable")
    return z, order[z[order] >= limit]
