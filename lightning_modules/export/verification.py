"""Compares an exported model with its checkpoint on the test set, and measures latency percentiles."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_modules.export.runtime import Predictor


@dataclass(frozen=True)
class Agreement:
    """The agreement of the scores of an exported model with the checkpoint's.

    Attributes:
        samples, part: number of compared samples, and the split they are from.
        max_error, largest: the largest absolute difference of a score, and the largest absolute score.
        top1: fraction of samples with the same predicted class; None for a regression.
        accuracy: (checkpoint, exported); None for a regression.
    """

    samples: int
    part: str
    max_error: float
    largest: float
    top1: float | None
    accuracy: tuple[float, float] | None


def compare_outputs(reference: Predictor, exported: Predictor, data: Any, classes: bool) -> Agreement:
    """Run both on the test set; if it is empty, on the validation or the training set.

    `classes`: the scores are probabilities.
    """
    part, batches = _verification_batches(data)
    theirs, own, y = [], [], []
    with torch.inference_mode():
        for batch in batches:
            theirs.append(reference(batch["x"]).float())
            own.append(exported(batch["x"]).float())
            y.append(batch["y"])
    a, b, target = torch.cat(theirs), torch.cat(own), torch.cat(y)
    found = Agreement(len(a), part, float((a - b).abs().max()), float(a.abs().max()), None, None)
    if not classes:
        return found
    top1 = float((predicted_classes(a) == predicted_classes(b)).float().mean())
    right = tuple(
        float((predicted_classes(s) == target.reshape(predicted_classes(s).shape)).float().mean()) for s in (a, b)
    )
    return Agreement(found.samples, part, found.max_error, found.largest, top1, (right[0], right[1]))


def predicted_classes(scores: Tensor) -> Tensor:
    """Scores [B, C] -> class of the highest score [B]; for independent labels, whether each score is above one half."""
    # softmax probabilities sum to one; those of labels are independent
    exclusive = (
        scores.ndim == 2 and scores.shape[1] > 1 and torch.allclose(scores.sum(1), scores.new_ones(1), atol=1e-3)
    )
    return scores.argmax(1) if exclusive else (scores > 0.5).long()


def _verification_batches(data: Any) -> tuple[str, Iterator[dict[str, Tensor]]]:
    for part, loader in (("test", data.test_dataloader), ("val", data.val_dataloader)):
        if len(data.splits[part]):
            return part, iter(loader())
    return "train", iter(data.train_dataloader())


@dataclass(frozen=True)
class LatencyPercentiles:
    """The median and the 95th percentile over `calls` calls, in milliseconds."""

    p50_ms: float
    p95_ms: float
    calls: int


def latency_percentiles(
    candidates: Mapping[str, Callable[[], object]], calls: int = 200, seconds: float = 1.0, warm_up: int = 5
) -> dict[str, LatencyPercentiles]:
    """Time single calls of the candidates in turns, so that other load on the machine affects all of them.

    Args:
        calls: largest number of calls of each candidate; at least 20 are made.
        seconds: time limit for all candidates together.
    """
    for call in candidates.values():
        for _ in range(warm_up):
            call()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    end = time.perf_counter() + seconds
    for done in range(calls):
        if done >= 20 and time.perf_counter() > end:
            break
        for name, call in candidates.items():
            begin = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - begin) * 1000)
    found = {name: np.percentile(ms, (50, 95)) for name, ms in times.items()}
    return {name: LatencyPercentiles(float(p50), float(p95), len(times[name])) for name, (p50, p95) in found.items()}
