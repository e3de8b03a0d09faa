"""What networks that score pairs of a user and an item share."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_modules.errors import UserError

_PAIRS = 2**18  # that are scored at once


class PairScorer(nn.Module):
    """Scores pairs int64 [B, 2] (user, item) -> [B, 1]; the higher, the sooner the item is shown to the user.

    Args:
        num_users, num_items: how many there are; the data say it.

    Raises:
        UserError: the samples are no pairs, or the data do not say how many users and items there are.
    """

    def __init__(self, input_shape: Sequence[int], num_users: int | None, num_items: int | None) -> None:
        super().__init__()
        name = type(self).__name__
        if tuple(input_shape) != (2,):
            raise UserError(
                f"model ({name}) scores pairs (user, item), not samples of shape {tuple(input_shape)}; "
                "try data=movielens_implicit"
            )
        if num_users is None or num_items is None:
            raise UserError(
                f"model ({name}): the data do not say model.num_users and model.num_items; give both, or try "
                "data=movielens_implicit"
            )
        self.num_users, self.num_items = num_users, num_items

    @abstractmethod
    def squares(self, users: Tensor, items: Tensor) -> Tensor:
        """Sum of squares of what is learnt of each of the users [B], and of its items [B, M] -> [B]."""

    def item_scores(self, users: Tensor) -> Tensor:
        """Scores of all items for the users int64 [U] -> [U, num_items]; subclasses know quicker ways."""
        items = torch.arange(self.num_items, device=users.device)
        rows = [
            self(torch.cartesian_prod(part, items)).view(len(part), -1)
            for part in users.split(max(1, _PAIRS // self.num_items))
        ]
        return torch.cat(rows)
