"""Samples that shall not be trained on: a list of their indices, written by `touchstone data clean`."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lightning_modules.config.errors import UserError


def drop_excluded(
    splits: dict[str, Tensor], file: str | Path, official_test: bool, exclude_test: bool, content: Callable[[], str]
) -> dict[str, Tensor]:
    """Take the listed samples out of training and validation; all others stay in the part that they are in without the list.

    Args:
        splits: int64 indices of "train", "val" and "test".
        file: JSON with ``content`` (the fingerprint of the raw values that were looked at) and ``excluded``: a list of
            ``{"index": i, "part": "pool" or "test", "why": …}``; "test" counts within an official test part.
        official_test: whether the test part is numbered by itself, or was split off the pool.
        exclude_test: take them out of the test part too: its numbers can then not be compared with others'.
        content: gives the fingerprint of the raw values at hand.

    Raises:
        UserError: no such file, a damaged one, one of other data, or one that leaves nothing to train on.
    """
    path = Path(file).expanduser()
    listed = _read(path, content)
    pool = {index for part, index in listed if part == "pool"}
    tested = {index for part, index in listed if part == "test"} if official_test else pool
    kept = {part: _remove(splits[part], pool) for part in ("train", "val")}
    kept["test"] = _remove(splits["test"], tested) if exclude_test else splits["test"]
    if not len(kept["train"]):
        raise UserError(f"data.exclude={path} leaves nothing to train on")
    return kept


def _remove(part: Tensor, excluded: set[int]) -> Tensor:
    return part[~torch.isin(part, torch.tensor(sorted(excluded), dtype=part.dtype))]


def _read(path: Path, content: Callable[[], str]) -> list[tuple[str, int]]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        listed = [(str(entry["part"]), int(entry["index"])) for entry in record["excluded"]]
        looked_at = str(record["content"])
    except OSError as error:
        raise UserError(f"data.exclude={path}: {error.strerror}; `touchstone data clean` writes one") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"data.exclude={path} is damaged ({error!r}); `touchstone data clean` writes one") from error
    if wrong := {part for part, _ in listed} - {"pool", "test"}:
        raise UserError(f"data.exclude={path}: the part of a sample is pool or test, not {sorted(wrong)[0]}")
    if looked_at != content():
        raise UserError(
            f"data.exclude={path} was made of other data: its content is {looked_at}, here it is {content()}"
        )
    return listed
