"""Next-item prediction as classification over all items."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_modules.task.chunk import Batch
from lightning_modules.task.full_ranking import Asked, FullRanking


class NextItem(FullRanking):
    """Scores [B, num_items] of histories int64 [B, L] against y float [B, 2], (item, user); `loss` takes scores and classes.

    ``val/loss`` is always the cross entropy over all items.
    """

    def target_of(self, batch: Batch) -> Tensor:
        return batch["y"][:, 0].long()

    def asked(self, batch: Batch) -> Asked:
        items, users = batch["y"].long().unbind(1)
        return Asked(self.forward(batch["x"]), users, torch.arange(len(items), device=items.device), items)

    def losses(self, asked: Asked, scores: Tensor, negatives: Tensor) -> Tensor:
        return F.cross_entropy(asked.scores, asked.items, reduction="none")[:, None]
