"""Train/val/test splits of user-item interactions: leave-one-out, by time or at random."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

Split = Literal["leave_one_out", "time", "random"]
Strata = Literal["item", "user"]
TRAIN, VAL, TEST = range(3)


def split_leave_one_out(user: Tensor, validate: bool) -> Tensor:
    """Return parts int64 [N] of interactions sorted by user and time: each user's latest is in the test part.

    The one before it is for validation. A user's first interaction always stays in training (He et al. 2017, section
    4.1), so a user with two has no validation sample, and a user with one has no test sample either.
    """
    place, count = _positions_in_group(user)
    parts = torch.zeros_like(user)
    parts[(place == count - 1) & (count > 1)] = TEST
    if validate:
        parts[(place == count - 2) & (count > 2)] = VAL
    return parts


def split_by_time(time: Tensor, val_fraction: float, test_fraction: float) -> Tensor:
    """Return parts int64 [N] by one cut in time for all users: test after the cut, validation just before it.

    Interactions with equal time stamps stay together, so the parts may be slightly larger than requested.
    """
    parts = torch.zeros_like(time)
    ordered = time.sort().values
    for part, share in ((VAL, val_fraction + test_fraction), (TEST, test_fraction)):
        if count := round(share * len(ordered)):
            parts[time >= ordered[-count]] = part
    if val_fraction == 0:
        parts[parts == VAL] = TRAIN
    return parts


def split_at_random(user: Tensor, strata: Tensor, val_fraction: float, test_fraction: float, seed: int) -> Tensor:
    """Return parts int64 [N], drawn at random within each of the `strata` (items or users).

    A user without training interactions gets one back from the other parts.
    """
    keys = np.random.RandomState([seed, TEST]).random_sample(len(strata))
    order = torch.from_numpy(np.lexsort((keys, strata.numpy())))
    place, count = _positions_in_group(strata[order])
    train_end = torch.round((1 - val_fraction - test_fraction) * count.double())
    test_start = torch.round((1 - test_fraction) * count.double())
    drawn = torch.where(place >= test_start, TEST, torch.where(place >= train_end, VAL, TRAIN))
    parts = torch.empty_like(drawn)
    parts[order] = drawn
    return _ensure_training_interaction(user, parts)


def _ensure_training_interaction(user: Tensor, parts: Tensor) -> Tensor:
    """Move the first interaction of users without training interactions into the training part."""
    lacking = ~torch.isin(user, user[parts == TRAIN])
    rows = lacking.nonzero().squeeze(1)
    _, first = np.unique(user[rows].numpy(), return_index=True)
    parts[rows[torch.from_numpy(first)]] = TRAIN
    return parts


def _positions_in_group(group: Tensor) -> tuple[Tensor, Tensor]:
    """For rows sorted by group: the position of each in its group, from 0, and the group's size; both [N]."""
    _, counts = group.unique_consecutive(return_counts=True)
    starts = counts.cumsum(0) - counts
    return torch.arange(len(group)) - starts.repeat_interleave(counts), counts.repeat_interleave(counts)


def last_occurrences(pairs: Tensor) -> Tensor:
    """Return the row int64 [M] of the last occurrence of each distinct pair in int64 [N, 2], ascending."""
    keys = pairs[:, 0] * (pairs[:, 1].max() + 1) + pairs[:, 1]
    _, first = np.unique(keys.flip(0).numpy(), return_index=True)
    return torch.from_numpy(np.sort(len(pairs) - 1 - first))


def interaction_matrix(pairs: Tensor, num_users: int, num_items: int) -> Tensor:
    """Return bool [num_users, num_items]: which pairs (user, item) occur in int64 [N, 2]."""
    bitmap = torch.zeros(num_users, num_items, dtype=torch.bool)
    bitmap[pairs[:, 0], pairs[:, 1]] = True
    return bitmap
