"""Ranking metrics: one value per user, averaged over users. Ranks count from 1 over all of a user's candidates."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.task.metrics import NO_SYNC

# each maps (ranks [M], user of each 0..U-1 [M], relevant items of each user [U], top_k) to values [U]
Measure = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def hit_rate(ranks: Tensor, user: Tensor, relevant: Tensor, top_k: int) -> Tensor:
    """1 if any relevant item is in the top k."""
    return (_sum_per_user(ranks <= top_k, user, relevant) > 0).float()


def recall(ranks: Tensor, user: Tensor, relevant: Tensor, top_k: int) -> Tensor:
    """Fraction of the relevant items that are in the top k."""
    return _sum_per_user(ranks <= top_k, user, relevant) / relevant


def precision(ranks: Tensor, user: Tensor, relevant: Tensor, top_k: int) -> Tensor:
    """Fraction of the top k that is relevant."""
    return _sum_per_user(ranks <= top_k, user, relevant) / top_k


def mrr(ranks: Tensor, user: Tensor, relevant: Tensor, top_k: int) -> Tensor:
    """Reciprocal rank of the first relevant item, without a cut-off."""
    return torch.zeros(len(relevant), device=ranks.device).scatter_reduce(0, user, 1 / ranks, "amax")


def ndcg(ranks: Tensor, user: Tensor, relevant: Tensor, top_k: int) -> Tensor:
    """Normalised discounted cumulative gain of binary relevance (Järvelin and Kekäläinen 2002, base 2)."""
    gains = torch.where(ranks <= top_k, 1 / torch.log2(ranks + 1), 0.0)
    best = (1 / torch.log2(torch.arange(top_k, device=ranks.device) + 2.0)).cumsum(0)
    return _sum_per_user(gains, user, relevant) / best[relevant.long().clamp(max=top_k) - 1]


MEASURES: Mapping[str, Measure] = {
    "ndcg": ndcg, "hit_rate": hit_rate, "mrr": mrr, "recall": recall, "precision": precision,
}  # fmt: skip


def _sum_per_user(values: Tensor, user: Tensor, relevant: Tensor) -> Tensor:
    return torch.zeros(len(relevant), device=values.device).scatter_add(0, user, values.float())


class UserMean(Metric):
    """The mean over users of `measure`, applied to the ranks in column `column`."""

    full_state_update = False

    def __init__(self, measure: Measure, top_k: int, column: int = 0) -> None:
        super().__init__(**NO_SYNC)
        self.measure, self.top_k, self.column = measure, top_k, column
        self.add_state("ranks", [], dist_reduce_fx="cat")
        self.add_state("users", [], dist_reduce_fx="cat")

    def update(self, ranks: Tensor, pairs: Tensor) -> None:
        """Add ranks [M, columns] of the pairs int64 [M, 2] (user, item)."""
        self.ranks.append(ranks[:, self.column])  # type: ignore[operator, union-attr]
        self.users.append(pairs[:, 0])  # type: ignore[operator, union-attr]

    def compute(self) -> Tensor:
        """The mean over all users with a relevant item."""
        ranks, users = dim_zero_cat(self.ranks), dim_zero_cat(self.users)  # type: ignore[arg-type]
        _, user, relevant = users.unique(return_inverse=True, return_counts=True)
        return self.measure(ranks, user, relevant.float(), self.top_k).mean()


def ranking_metrics(names: Sequence[str], top_k: int, sampled: bool) -> MetricCollection:
    """The named metrics over all candidates, e.g. ``ndcg_at_10``; with `sampled` also over samples: ``sampled_ndcg_at_10``.

    Raises UserError for an unknown name.
    """
    for name in names:
        if name not in MEASURES:
            raise UserError(f"task.metrics: unknown metric '{name}'; {suggest(str(name), MEASURES)}")
    found: dict[str, Metric | MetricCollection] = {}
    for column, prefix in enumerate(("", "sampled_")[: 1 + sampled]):
        for name in names:
            key = name if name == "mrr" else f"{name}_at_{top_k}"
            found[prefix + key] = UserMean(MEASURES[name], top_k, column)
    return MetricCollection(found, compute_groups=False)
