"""Ranking learned from (user, item) pairs against sampled negatives, and next-item prediction."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.augmentation.interactions.pair_transforms import NegativeSampling
from lightning_modules.config.bounds import Count, NonNegative, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.data.in_memory import Batch
from lightning_modules.zoo.task.full_ranking import FullRanking, RankingQuery


class BPRLoss(nn.Module):
    """Mean of ``-log sigmoid(positive - negative)`` over scores [B, 1 + K], the positive first (Rendle et al. 2009)."""

    def forward(self, scores: Tensor, relevance: Tensor) -> Tensor:
        """`relevance`, 1 in the first column and 0 elsewhere, is unused here; other losses need it."""
        return F.softplus(scores[:, 1:] - scores[:, :1]).mean()


class Ranking(FullRanking):
    """Scores pairs; `loss` takes scores [B, 1 + K] of a positive and its negatives, and their relevance of the same shape.

    Negatives come from the augmentation (``batch["negatives"]``, int64 [B, K]); without it, `negatives` items are sampled
    uniformly from those without a training interaction of the user. ``val/loss`` pairs each held-out interaction with
    `negatives` uniform ones, the same in each run.

    Args:
        model: a `PairScorer`.
        negatives: number per positive.
        decay: weight of half the squared norm of the embeddings of user, item and negatives, added to the loss (the
            lambda of Rendle et al. 2009; the penalty of He et al. 2020, equation 15).
    """

    @bounded
    def __init__(
        self, model: nn.Module, loss: nn.Module, *, negatives: Count = 1, decay: NonNegative = 0.0, **loop: Any
    ) -> None:
        super().__init__(model, loss, **loop)
        for name in ("item_scores", "squared_norms", "num_users", "num_items"):
            if not hasattr(model, name):
                raise UserError(
                    f"task=ranking: {type(model).__name__} does not score (user, item) pairs; try model=bpr, model=neumf "
                    "or model=lightgcn"
                )
        self.loss_negatives, self.decay = negatives, decay
        sampling = NegativeSampling(count=negatives)
        sampling.set_interactions(torch.zeros(self._scorer.num_users, self._scorer.num_items, dtype=torch.bool))
        self.candidates = _AppendNegatives(self.augmentation, sampling)
        self.augmentation = self.candidates

    @property
    def _scorer(self) -> Any:
        return self.model

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.candidates.prepare(self.data)
        if hasattr(self.model, "set_graph"):
            self._scorer.set_graph(self.data.arrays.x[self.data.splits["train"]].to(self.device))

    def forward(self, x: Tensor) -> Tensor:
        """Pairs int64 [B, 2] -> scores [B, 1]; [B, M, 2] -> [B, M]."""
        return super().forward(x.reshape(-1, 2)).view(len(x), -1)

    def loss_target(self, batch: Batch) -> Tensor:
        pairs = batch.get("x")
        width = 1 if pairs is None or pairs.ndim == 2 else pairs.shape[1]
        return _relevance_of_first(len(batch["y"]), width, batch["y"].device)

    def training_loss(self, batch: Batch, step: int) -> Tensor:
        loss = super().training_loss(batch, step)
        pairs = self.candidates.pairs
        if self.decay and pairs is not None:
            loss = loss + 0.5 * self.decay * self._scorer.squared_norms(pairs[:, 0, 0], pairs[..., 1]).mean()
        return loss

    def query(self, batch: Batch) -> RankingQuery:
        user, items = batch["x"].unbind(1)
        users, rows = user.unique(return_inverse=True)
        return RankingQuery(self._scorer.item_scores(users), users, rows, items)

    def sample_losses(self, query: RankingQuery, scores: Tensor, negatives: Tensor) -> Tensor:
        return torch.cat([scores[:, None], negatives], 1)

    def evaluation_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        scores = outputs[:, -1 - self.loss_negatives :]
        return self.loss(scores, _relevance_of_first(len(scores), scores.shape[1], scores.device))


def _relevance_of_first(count: int, width: int, device: torch.device) -> Tensor:
    relevance = torch.zeros(count, width, device=device)
    relevance[:, 0] = 1
    return relevance


class _AppendNegatives(nn.Module):
    """Applies the configured augmentation, samples negatives if it added none; ``batch["x"]`` becomes int64 [B, 1 + K, 2]."""

    def __init__(self, inner: nn.Module | None, sampling: NegativeSampling) -> None:
        super().__init__()
        self.inner, self.sampling = inner, sampling
        self.pairs: Tensor | None = None  # of the last batch

    @property
    def transforms(self) -> list[nn.Module]:
        """All transforms of a batch."""
        return [*getattr(self.inner, "transforms", []), self.sampling]

    def prepare(self, data: object) -> None:
        for part in (self.inner, self.sampling):
            prepare = getattr(part, "prepare", None)
            if prepare is not None:
                prepare(data)

    def forward(self, batch: Batch, generator: torch.Generator) -> Batch:
        batch = self.inner(batch, generator) if self.inner is not None else batch
        if "negatives" not in batch:
            batch = self.sampling(batch, generator)
        users, items = batch["x"].unbind(1)
        items = torch.cat([items[:, None], batch["negatives"]], 1)
        self.pairs = torch.stack([users[:, None].expand_as(items), items], 2)
        return {**batch, "x": self.pairs}


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
