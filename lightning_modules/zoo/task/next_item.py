"""Next-item prediction as classification over all items."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_modules.task.fast_loop import Batch
from lightning_modules.zoo.task.full_ranking import FullRanking, RankingQuery


class NextItem(FullRanking):
    """Scores [B, num_items] of histories int64 [B, L] against y float [B, 2], (item, user); `loss` takes scores and classes.

    ``val/loss`` is always the cross entropy over all items.
    """

    def loss_target(self, batch: Batch) -> Tensor:
        return batch["y"][:, 0].long()

    def query(self, batch: Batch) -> RankingQuery:
        items, users = batch["y"].long().unbind(1)
        return RankingQuery(self.forward(batch["x"]), users, torch.arange(len(items), device=items.device), items)

    def sample_losses(self, query: RankingQuery, scores: Tensor, negatives: Tensor) -> Tensor:
        return F.cross_entropy(query.scores, query.items, reduction="none")[:, None]
