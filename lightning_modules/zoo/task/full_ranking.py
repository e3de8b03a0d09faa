"""Base class of the recommendation tasks: rankings over all items, evaluated without sampling."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_modules.config.bounds import Count, Whole, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.data.in_memory import Batch
from lightning_modules.task.metrics import select_metrics
from lightning_modules.task.supervised import Supervised
from lightning_modules.zoo.task.ranking_metrics import MEASURES, ranking_metrics

_NEGATIVES_SEED = 20_170_403  # seed of the sampled negatives of an evaluation: the same in every run


class RankingQuery(NamedTuple):
    """The scores of a batch, and which user and item each sample is about."""

    scores: Tensor  # float [U, num_items]
    users: Tensor  # int64 [U]
    rows: Tensor  # int64 [B], each sample's row of `scores`
    items: Tensor  # int64 [B], the relevant item of each sample


class FullRanking(Supervised):
    """Ranks all items of a user except those already known; each held-out interaction is one sample of val and test.

    The rank of a relevant item is the number of candidates minus the number of candidates with a lower score: ties rank
    last, so a constant model gains nothing. Other relevant items of the user are candidates too. The datamodule provides
    ``known(part)`` and ``relevant(part)``.

    Args:
        top_k: length of the recommended list.
        sampled_negatives: also log ``sampled_…`` metrics against that many sampled items per relevant one; only for
            comparison with older papers, since they may rank models differently (Krichene and Rendle 2020).
        metrics: names for ``val`` and ``test``: ndcg, hit_rate, mrr, recall, precision.
    """

    @bounded
    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        num_outputs: int = 1,
        top_k: Count = 10,
        sampled_negatives: Whole = 0,
        metrics: Mapping[str, Sequence[str] | None] | None = None,
        **loop: Any,
    ) -> None:
        super().__init__(model, loss, **loop)
        self.num_outputs, self.top_k, self.sampled_negatives = num_outputs, top_k, sampled_negatives
        self.metrics = select_metrics(metrics, {"val": tuple(MEASURES), "test": tuple(MEASURES)})
        self._lists: dict[str, tuple[Tensor, Tensor]] = {}
        self._draws: dict[str, Tensor] = {}

    @abstractmethod
    def query(self, batch: Batch) -> RankingQuery:
        """Scores of all items for the users of a val or test batch."""

    loss_negatives = 0  # number of negatives per sample that `sample_losses` needs

    @abstractmethod
    def sample_losses(self, query: RankingQuery, scores: Tensor, negatives: Tensor) -> Tensor:
        """Columns [B, …] from which `evaluation_loss` is computed, given the scores [B] and those of negatives [B, N]."""

    def build_metrics(self, stage: str) -> MetricCollection:
        return ranking_metrics(self.metrics[stage], self.top_k, self.sampled_negatives > 0)

    # --- interactions of the datamodule ------------------------------------------------------------------------
    @property
    def data(self) -> Any:
        """The datamodule of the run. Raises UserError if it has no interactions."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(data, "known"):
            raise UserError(
                f"{type(self).__name__} needs interactions, but {data.name} has none; try data=movielens_implicit or "
                "data=movielens_sequence"
            )
        return data

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self._lists, self._draws = {}, {}
        _ = self.data

    def _known_and_relevant(self, stage: str) -> tuple[Tensor, Tensor]:
        if stage not in self._lists:
            self._lists[stage] = (self.data.known(stage), self.data.relevant(stage))
        known, relevant = (part.to(self.device) for part in self._lists[stage])
        return known, relevant

    def _random_draws(self, stage: str, index: Tensor) -> Tensor:
        """Uniform random numbers [B, N] that depend on the sample's index only, not on batch or rank.

        The first columns are for the loss, the others for the sampled metrics.
        """
        if stage not in self._draws:
            arrays = self.data.arrays
            rows = len(arrays.test[1]) if stage == "test" and arrays.test else len(arrays.y)
            counts = (self.loss_negatives, self.sampled_negatives)
            tables = [
                torch.rand(rows, count, generator=torch.Generator().manual_seed(_NEGATIVES_SEED + i))
                for i, count in enumerate(counts)
            ]
            self._draws[stage] = torch.cat(tables, 1)
        return self._draws[stage][index.cpu()].to(self.device)

    # --- evaluation --------------------------------------------------------------------------------------------
    def _buffer_predictions(self, stage: str, batch: Batch) -> None:
        query = self.query(batch)
        known, relevant = (part[query.users] for part in self._known_and_relevant(stage))
        scores = query.scores[query.rows, query.items]
        columns = [item_ranks(query, scores, ~known)]
        negatives = query.scores[query.rows[:, None], self._negatives(stage, batch, query, ~known & ~relevant)]
        if self.sampled_negatives:
            lower = (negatives[:, self.loss_negatives :] < scores[:, None]).sum(1)
            columns.append(1 + self.sampled_negatives - lower)
        ranks = torch.stack(columns, 1).float()
        sample_losses = self.sample_losses(query, scores, negatives[:, : self.loss_negatives])
        pairs = torch.stack([query.users[query.rows], query.items], 1)
        self.prediction_buffers[stage].add(torch.cat([ranks, sample_losses], 1), pairs, batch["index"])

    def _negatives(self, stage: str, batch: Batch, query: RankingQuery, candidates: Tensor) -> Tensor:
        """Items int64 [B, N], sampled with replacement from the non-relevant candidates bool [U, num_items]."""
        draws = self._random_draws(stage, batch["index"])
        places = candidates.cumsum(1)[query.rows]
        wanted = (draws * places[:, -1:]).floor() + 1
        return torch.searchsorted(places, wanted.long()).clamp(max=candidates.shape[1] - 1)

    def evaluation_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The mean of the columns that `sample_losses` added after the ranks."""
        return outputs[:, 1 + (self.sampled_negatives > 0) :].mean()


def item_ranks(query: RankingQuery, scores: Tensor, candidates: Tensor) -> Tensor:
    """The rank [B], from 1, of each sample's item with score `scores` [B] among the `candidates` bool [U, num_items].

    The item itself always counts as a candidate, even if it is already known.
    """
    lower = (query.scores[query.rows] < scores[:, None]) & candidates[query.rows]
    missing = ~candidates[query.rows, query.items]
    return candidates.sum(1)[query.rows] + missing - lower.sum(1)
