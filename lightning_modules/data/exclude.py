"""Exclusion of listed samples (noise, duplicates) from training; ``touchstone data clean`` writes the list."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lightning_modules.config.errors import UserError


def drop_excluded(
    splits: dict[str, Tensor], file: str | Path, official_test: bool, exclude_test: bool, content: Callable[[], str]
) -> dict[str, Tensor]:
    """Remove the listed samples from training and validation; all other samples stay in their part.

    Args:
        splits: int64 indices of "train", "val" and "test".
        file: JSON with ``content`` (the fingerprint of the inspected raw values) and ``excluded``: a list of
            ``{"index": i, "part": "pool" or "test", "why": …}``; "test" indices count within an official test part.
        official_test: whether there is an official test part with its own indices.
        exclude_test: also remove them from the test part; test results are then no longer comparable with others.
        content: returns the fingerprint of the current raw values.

    Raises:
        UserError: the file is missing, damaged or of different data, or no training sample is left.
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
        inspected = str(record["content"])
    except OSError as error:
        raise UserError(f"data.exclude={path}: {error.strerror}; `touchstone data clean` writes one") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"data.exclude={path} is damaged ({error!r}); `touchstone data clean` writes one") from error
    if wrong := {part for part, _ in listed} - {"pool", "test"}:
        raise UserError(f"data.exclude={path}: expected pool or test as the part of a sample, got {sorted(wrong)[0]}")
    if inspected != content():
        raise UserError(
            f"data.exclude={path} was created for different data (fingerprint {inspected}, current data {content()})"
        )
    return listed
