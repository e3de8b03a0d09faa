"""Compares an exported model with its checkpoint on the test set."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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
