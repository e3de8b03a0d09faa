"""Sequential recommendation: the mean of a history's embeddings, or a GRU over them (Hidasi et al. 2016, GRU4Rec)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_modules.config.bounds import bounded
from lightning_modules.config.errors import UserError


class SequentialRecommender(nn.Module):
    """Scores [B, num_items] of the next item after histories int64 [B, L] of item numbers + 1, left-padded with 0.

    An item's score is the dot product of its embedding with the vector of the history, plus a bias. The id num_items + 1
    is a masked item.

    Args:
        num_items: taken from the data.
        kind: ``mean`` of the history's embeddings, or the last state of a ``gru`` over them.
        factors: embedding size; also the size of the state.
        dropout: of the history's vector.
    """

    @bounded
    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int | None = None,
        num_items: int | None = None,
        kind: Literal["mean", "gru"] = "gru",
        factors: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(input_shape) != 1 or num_items is None:
            shape = tuple(input_shape)
            raise UserError(f"model.num_items: samples of shape {shape} are no histories; try data=movielens_sequence")
        self.num_items = num_items
        self.items = nn.Embedding(num_items + 2, factors, padding_idx=0)
        nn.init.normal_(self.items.weight, std=factors**-0.5)
        with torch.no_grad():
            self.items.weight[0].zero_()
        self.gru = nn.GRU(factors, factors, batch_first=True) if kind == "gru" else None
        self.dropout = nn.Dropout(dropout)
        self.bias = nn.Parameter(torch.zeros(num_items))

    @property
    def mixing_point(self) -> nn.Module:
        """The layer that outputs the vector of a history."""
        return self.dropout

    def forward(self, history: Tensor) -> Tensor:
        embedded, there = self.items(history), history != 0
        if self.gru is None:
            state = embedded.sum(1) / there.sum(1, keepdim=True).clamp(min=1)
        else:
            state = self._last_state(embedded, there)
        return self.dropout(state) @ self.items.weight[1 : self.num_items + 1].T + self.bias

    def _last_state(self, embedded: Tensor, there: Tensor) -> Tensor:
        """Left-align the histories first, so that the GRU does not run over padding."""
        assert self.gru is not None
        counts = there.sum(1)
        places = torch.arange(embedded.shape[1], device=embedded.device) + (embedded.shape[1] - counts)[:, None]
        places = places.clamp(max=embedded.shape[1] - 1)[..., None].expand_as(embedded)
        states, _ = self.gru(embedded.gather(1, places))
        last = (counts - 1).clamp(min=0)[:, None, None].expand(-1, 1, states.shape[2])
        return torch.where(counts[:, None] > 0, states.gather(1, last).squeeze(1), 0.0)
