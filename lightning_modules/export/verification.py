"""Compares an exported model with its checkpoint on the test set."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.data.in_memory import InMemoryData
from lightning_modules.export.runtime import Predictor


@dataclass(frozen=True)
class Agreement:
    """The agreement of the scores of an exported model with the checkpoint's.

    Attributes:
        samples, part: number of compared samples, and the split they are from.
        max_error, largest: the largest absolute difference of a score, and the largest absolute score; where each sample has
            a table of scores, relative to the largest of a column, if that is more than 1.
        top1: fraction of samples with the same predicted class; None for a regression.
        accuracy: (checkpoint, exported); None for a regression.
    """

    samples: int
    part: str
    max_error: float
    largest: float
    top1: float | None
    accuracy: tuple[float, float] | None


def compare_outputs(reference: Predictor, exported: Predictor, data: InMemoryData, classes: bool) -> Agreement:
    """Run both on the test set; if it is empty, on the validation or the training set.

    `classes`: the scores are probabilities.
    """
    part = next((part for part in ("test", "val") if len(data.splits[part])), "train")
    kept: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])  # only for classes: other scores may be large
    count, most = 0, torch.zeros(2)  # the largest error and score, which stay NaN once they are
    with torch.inference_mode():
        for batch in getattr(data, f"{part}_dataloader")():
            a, b = reference(batch["x"]).float(), exported(batch["x"]).float()
            if a.ndim == 3:  # of several units, as corners of boxes and their scores
                a, b = (scores / a.abs().amax((0, 1)).clamp(min=1) for scores in (a, b))
            count, most = count + len(a), torch.stack([(a - b).abs().max(), a.abs().max()]).cpu().maximum(most)
            for rows, found in zip(kept, (a, b, batch["y"]), strict=True) if classes else ():
                rows.append(found)
    top1, accuracy = None, None
    if classes:
        a, b, target = map(torch.cat, kept)
        before, after = predicted_classes(a), predicted_classes(b)
        target = target.reshape(before.shape)
        top1 = float((before == after).float().mean())
        accuracy = (float((before == target).float().mean()), float((after == target).float().mean()))
    return Agreement(count, part, float(most[0]), float(most[1]), top1, accuracy)


def predicted_classes(scores: Tensor) -> Tensor:
    """Scores [B, C] -> class of the highest score [B]; for independent labels, whether each score is above one half."""
    # softmax probabilities sum to one; those of labels are independent
    exclusive = (
        scores.ndim == 2 and scores.shape[1] > 1 and torch.allclose(scores.sum(1), scores.new_ones(1), atol=1e-3)
    )
    return scores.argmax(1) if exclusive else (scores > 0.5).long()
