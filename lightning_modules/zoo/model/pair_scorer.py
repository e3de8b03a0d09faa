"""Base class of networks that score (user, item) pairs."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_modules.config.errors import UserError

_PAIRS_PER_BATCH = 2**18  # scored in one forward pass


class PairScorer(nn.Module):
    """Scores pairs int64 [B, 2] (user, item) -> [B, 1]; items with higher scores are ranked first.

    Args:
        num_users, num_items: taken from the data.

    Raises:
        UserError: the samples are not pairs, or the numbers of users and items are unknown.
    """

    def __init__(self, input_shape: Sequence[int], num_users: int | None, num_items: int | None) -> None:
        super().__init__()
        name = type(self).__name__
        if tuple(input_shape) != (2,):
            raise UserError(
                f"model ({name}) needs pairs (user, item), got samples of shape {tuple(input_shape)}; "
                "try data=movielens_implicit"
            )
        if num_users is None or num_items is None:
            raise UserError(
                f"model ({name}): model.num_users and model.num_items are unknown for this data; set both, or try "
                "data=movielens_implicit"
            )
        self.num_users, self.num_items = num_users, num_items

    @abstractmethod
    def squared_norms(self, users: Tensor, items: Tensor) -> Tensor:
        """Squared norm of the parameters of each user [B] and its items [B, M] -> [B]."""

    def item_scores(self, users: Tensor) -> Tensor:
        """Scores of all items for the users int64 [U] -> [U, num_items]; subclasses may have a faster way."""
        items = torch.arange(self.num_items, device=users.device)
        rows = [
            self(torch.cartesian_prod(part, items)).view(len(part), -1)
            for part in users.split(max(1, _PAIRS_PER_BATCH // self.num_items))
        ]
        return torch.cat(rows)
