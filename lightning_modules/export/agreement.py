"""An exported model against the checkpoint it was made from, on the test set."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_modules.export.runtime import Predictor


@dataclass(frozen=True)
class Agreement:
    """How far the scores of an exported model are from the checkpoint's.

    Attributes:
        samples: that were compared; `part` says of which part of the data.
        max_error: the largest absolute difference of a score; `largest` is the largest absolute score itself.
        top1: share of samples with the same highest score (classes: the same side of 0.5); None for values.
        accuracy: (checkpoint, exported), share of samples that are right; None where targets are no classes.
    """

    samples: int
    part: str
    max_error: float
    largest: float
    top1: float | None
    accuracy: tuple[float, float] | None


def compare_outputs(reference: Predictor, exported: Predictor, data: Any, classes: bool) -> Agreement:
    """Run both on the test set; where there is none, on the validation or the training part.

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
    """The class of the highest score [B, C] -> [B], or for each output whether it is above one half (one or several labels)."""
    # probabilities of a softmax sum to one; those of labels are independent
    exclusive = (
        scores.ndim == 2 and scores.shape[1] > 1 and torch.allclose(scores.sum(1), scores.new_ones(1), atol=1e-3)
    )
    return scores.argmax(1) if exclusive else (scores > 0.5).long()


def _verification_batches(data: Any) -> tuple[str, Iterator[dict[str, Tensor]]]:
    for part, loader in (("test", data.test_dataloader), ("val", data.val_dataloader)):
        if len(data.splits[part]):
            return part, iter(loader())
    return "train", iter(data.train_dataloader())
