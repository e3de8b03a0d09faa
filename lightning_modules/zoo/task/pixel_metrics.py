"""Loss and metrics of a class for each pixel, from counts of each image, so that no masks are kept."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection

from lightning_modules.augmentation.image.masks import IGNORED
from lightning_modules.config.bounds import NonNegative, bounded
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.task.metrics import NO_SYNC


class PixelLoss(nn.Module):
    """Mean cross entropy of the labelled pixels, plus `dice` times the soft Dice loss (Milletari et al. 2016, V-Net).

    Of logits [B, C, H, W] against classes int [B, H, W]; pixels of IGNORED are left out, and without others it is 0.
    """

    weight: Tensor | None

    @bounded
    def __init__(self, dice: NonNegative = 0.0) -> None:
        super().__init__()
        self.dice = dice
        self.register_buffer("weight", None)

    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        labelled, target, outputs = target != IGNORED, target.long(), outputs.float()
        nats = F.cross_entropy(outputs, target, self.weight, ignore_index=IGNORED, reduction="sum")
        classes = target.where(labelled, 0)
        weights = labelled if self.weight is None else self.weight[classes] * labelled
        loss = nats / weights.sum().clamp(min=torch.finfo(nats.dtype).tiny)
        return loss + self.dice * self._dice(outputs, classes, labelled) if self.dice else loss

    def _dice(self, outputs: Tensor, classes: Tensor, labelled: Tensor) -> Tensor:
        """One minus the mean over classes of the Dice coefficient of the probabilities, over all pixels of the batch."""
        shares = outputs.softmax(1) * labelled[:, None]
        truth = F.one_hot(classes, outputs.shape[1]).movedim(-1, 1) * labelled[:, None]
        common, both = (shares * truth).sum((0, 2, 3)), (shares + truth).sum((0, 2, 3))
        return 1 - ((2 * common + 1) / (both + 1)).mean()


def pixel_counts(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return of each image float32 [B, 3C + 1] and int64 [B, C].

    The first are labelled pixels of each class that are right, those predicted, and those true, and the sum of nats; the
    second are the true ones again. Counts are exact up to 2^24 pixels of an image.
    """
    size, classes = logits.shape[:2]
    target, labelled, predicted = target.long(), target != IGNORED, logits.argmax(1)
    first = torch.arange(size, device=logits.device).view(-1, 1, 1) * classes

    def count(found: Tensor, where: Tensor) -> Tensor:
        return (first + found)[where].bincount(minlength=size * classes).view(size, classes)

    true = count(target, labelled)
    right, guessed = count(target, labelled & (predicted == target)), count(predicted, labelled)
    nats = F.cross_entropy(logits.float(), target, ignore_index=IGNORED, reduction="none").sum((1, 2))
    return torch.cat([right, guessed, true, nats[:, None]], 1).float(), true


def _totals(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Right, predicted and true pixels of each class, [C] each, in all images."""
    right, guessed, true = counts[:, :-1].double().sum(0).chunk(3)
    return right, guessed, true


def class_iou(counts: Tensor) -> Tensor:
    """Intersection over union of each class [C]; NaN for a class that is neither true nor predicted."""
    right, guessed, true = _totals(counts)
    return right / (guessed + true - right)


def class_dice(counts: Tensor) -> Tensor:
    """Dice coefficient (F1) of each class [C]; NaN for a class that is neither true nor predicted."""
    right, guessed, true = _totals(counts)
    return 2 * right / (guessed + true)


def pixel_accuracy(counts: Tensor) -> Tensor:
    """Share of labelled pixels whose class is right."""
    right, _, true = _totals(counts)
    return right.sum() / true.sum()


MEASURES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mean_iou": lambda counts: class_iou(counts).nanmean(),
    "dice": lambda counts: class_dice(counts).nanmean(),
    "pixel_accuracy": pixel_accuracy,
    "class_iou": class_iou,
    "class_dice": class_dice,
}


class PixelMetric(Metric):
    """A measure of the pixels of all images together, from the counts of `pixel_counts`."""

    full_state_update = False

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__(**NO_SYNC)
        self.measure, self.num_classes = MEASURES[name], num_classes
        self.average = "none" if name.startswith("class_") else "macro"
        self.add_state("counts", [], dist_reduce_fx="cat")

    def update(self, counts: Tensor, target: Tensor | None = None) -> None:
        self.counts.append(counts)  # type: ignore[operator, union-attr]

    def compute(self) -> Tensor:
        return self.measure(torch.cat(list(self.counts)).cpu())  # type: ignore[arg-type]


def pixel_metrics(names: Sequence[str], num_classes: int) -> MetricCollection:
    """Return the named metrics. Raises UserError for an unknown name."""
    if wrong := [name for name in names if name not in MEASURES]:
        raise UserError(f"task.metrics: unknown metric '{wrong[0]}'; {suggest(str(wrong[0]), MEASURES)}")
    return MetricCollection({name: PixelMetric(name, num_classes) for name in names}, compute_groups=False)
