"""MovieLens 100K as implicit feedback: which films a user has rated (or rated well), and not how."""

from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.data.fingerprint import combine_fingerprint
from lightning_modules.data.in_memory import RawDataset
from lightning_modules.data.split import check_number
from lightning_modules.zoo.data.interaction_splits import (
    SPLITS,
    STRATA,
    TEST,
    TRAIN,
    VAL,
    Split,
    Strata,
    interaction_matrix,
    last_occurrences,
    split_at_random,
    split_by_time,
    split_leave_one_out,
)
from lightning_modules.zoo.data.movielens import MovieLens


class MovieLensImplicit(MovieLens):
    """int64 [2], (user, item), one sample for each interaction; y float32, the rating that it came from.

    Of repeated pairs the last one is kept, as usual for implicit feedback (feedback is a set of pairs, Rendle et al. 2009).
    Users and items are numbered as in `MovieLens`, whatever is left out. The test part is made here: ``test_fraction`` and
    ``val_fraction`` are shares of all interactions for ``time`` and ``random``; for ``leave_one_out`` a
    ``val_fraction`` of 0 means no validation part, and nothing else.

    Args:
        min_rating: lower ratings are no interactions.
        split: ``leave_one_out`` (each user's latest is tested), ``time`` (the latest of all are) or ``random``.
        strata: within which ``random`` draws: ``item`` or ``user``.
        cold_users: validate and test users too of whom nothing is trained on; only ``time`` has any.
        others: as in `MovieLens`.
    """

    domain = "interactions"

    def __init__(
        self,
        *,
        min_rating: float = 1.0,
        split: Split = "leave_one_out",
        strata: Strata = "item",
        cold_users: bool = False,
        **settings: Any,
    ) -> None:
        self.min_rating, self.split, self.strata, self.cold_users = min_rating, split, strata, cold_users
        super().__init__(**settings)

    def problems(self) -> list[str]:
        found = super().problems()
        found += check_number("min_rating", self.min_rating, False, lambda v: v >= 0, "of at least 0")
        for key, options in (("split", SPLITS), ("strata", STRATA)):
            if (value := getattr(self, key)) not in options:
                found.append(f"data.{key}={value}: {suggest(str(value), options)}")
        return found

    def load(self) -> RawDataset:
        """Read the file, leave out low ratings, sort by user and time, and hold the test part out.

        Raises:
            UserError: the file is missing or damaged, or no rating is high enough.
        """
        raw = super().load()
        pairs = torch.as_tensor(raw.x)
        self.num_users, self.num_items = len(self.user_ids), len(self.item_ids)
        rows = torch.from_numpy(np.lexsort((pairs[:, 1].numpy(), self.timestamps.numpy(), pairs[:, 0].numpy())))
        rows = self._drop_repeats(rows, pairs)
        rows = rows[raw.y[rows] >= self.min_rating]
        if not len(rows):
            raise UserError(f"data.min_rating={self.min_rating}: the highest rating is {float(raw.y.max()):g}")
        self.rows, self.parts = self._drop_cold_users(
            rows, pairs, self.assign_parts(pairs[rows], self.timestamps[rows])
        )
        self.timestamps = self.timestamps[self.rows]
        return self.build_dataset(pairs[self.rows], raw.y[self.rows], self._content(raw))

    def assign_parts(self, pairs: Tensor, times: Tensor) -> Tensor:
        """The part of each interaction, int64 [N]; `pairs` are sorted by user and time."""
        plan, user = self.plan, pairs[:, 0]
        if self.split == "leave_one_out":
            return split_leave_one_out(user, plan.val_fraction > 0)
        if self.split == "time":
            return split_by_time(times, plan.val_fraction, plan.test_fraction)
        strata = pairs[:, 1] if self.strata == "item" else user
        return split_at_random(user, strata, plan.val_fraction, plan.test_fraction, plan.split_seed)

    def _drop_repeats(self, rows: Tensor, pairs: Tensor) -> Tensor:
        """Keep the last interaction of each user with each item: otherwise an item could be trained on and held out."""
        kept = rows[last_occurrences(pairs[rows])]
        if repeats := len(rows) - len(kept):
            rank_zero_warn(
                f"{self.name}: {repeats} of {len(rows)} interactions repeat an earlier pair of user and item; "
                "only the last of each pair is kept"
            )
        return kept

    def _drop_cold_users(self, rows: Tensor, pairs: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
        """Leave out held-out interactions of users of whom nothing is trained on."""
        user = pairs[rows, 0]
        kept = torch.isin(user, user[parts == TRAIN]) | self.cold_users
        return rows[kept], parts[kept]

    def build_dataset(self, pairs: Tensor, ratings: Tensor, content: str) -> RawDataset:
        """The set made of the interactions, sorted by user and time, and of ``self.parts``."""
        pool = self.parts != TEST
        val = (self.parts[pool] == VAL).nonzero().squeeze(1)
        return RawDataset(pairs[pool], ratings[pool], test=(pairs[~pool], ratings[~pool]), val=val, content=content)

    def known(self, part: str) -> Tensor:
        """bool [num_users, num_items]: items of each user that are no candidates where `part` is trained on or measured.

        For ``train`` these are the user's training items; for ``val`` and ``test`` all that are in no part measured
        then or later, and before the test those of validation too: whatever share of them is trained on.
        """
        pairs = torch.as_tensor(self.arrays.x)
        if part == "train":
            pairs = pairs[self.splits["train"]]
        elif part == "val":
            pairs = pairs[~torch.isin(torch.arange(len(pairs)), self.splits["val"])]
        return interaction_matrix(pairs, self.num_users, self.num_items)

    def relevant(self, part: str) -> Tensor:
        """bool [num_users, num_items]: the items of ``val`` or ``test`` that are to be found."""
        x, _ = self.arrays.test if part == "test" and self.arrays.test else (self.arrays.x, None)
        return interaction_matrix(torch.as_tensor(x)[self.splits[part]], self.num_users, self.num_items)

    def fingerprint(self) -> str:
        if self._fingerprint is None:
            arrays = self.arrays
            # the file's content says nothing of what is left out or held out of it
            splits = {**self.splits, "rows": self.rows, "parts": self.parts}
            self._fingerprint = combine_fingerprint(self._content(arrays), splits, self.preprocess)
        return self._fingerprint

    def model_settings(self) -> dict[str, Any]:
        """What a model must know of the data; the number of interactions is that of the training part."""
        sizes = {"num_users": self.num_users, "num_items": self.num_items}
        return {**sizes, "mean": 0.0, "num_interactions": len(self.splits["train"])}

    def sample_text(self, x: Tensor) -> str:
        """One sample in words, by the ids of the file; with negatives, [1 + K, 2], these too."""
        pairs = x.reshape(-1, 2).tolist()
        films = [str(self.item_ids[item]) for _, item in pairs]
        negatives = f", not {', '.join(films[1:])}" if films[1:] else ""
        return f"user {self.user_ids[pairs[0][0]]}: film {films[0]}{negatives}"
