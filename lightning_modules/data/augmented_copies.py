"""Augmented copies on disk, written by ``touchstone augment`` and appended to the training part."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lightning_modules.config.errors import UserError

MANIFEST_FILE, SAMPLES_FILE = "manifest.json", "samples.safetensors"
HINT = "`touchstone augment` writes one"


def read_manifest(folder: Path) -> dict[str, object]:
    """Read the manifest: what the copies were made from. Raises UserError if it is missing or damaged."""
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"data.augmented={folder}: {MANIFEST_FILE}: {error.strerror}; {HINT}") from error
    except ValueError as error:
        raise UserError(f"data.augmented={folder}: {MANIFEST_FILE} is damaged ({error}); {HINT}") from error
    if not isinstance(manifest, dict) or not {"content", "sha256"} <= set(manifest):
        raise UserError(f"data.augmented={folder}: {MANIFEST_FILE} has no content or no sha256; {HINT}")
    return manifest


def add_augmented(arrays: Any, splits: dict[str, Tensor], folder: Path, content: str) -> tuple[Any, dict[str, Tensor]]:
    """Append the copies in `folder` whose source is in the training part to it; validation and test are unchanged.

    Args:
        arrays: the raw data set; dtypes and shapes must match.
        content: fingerprint of the raw values; the copies must have been made from the same.

    Raises UserError if the folder has no copies, or they are damaged or belong to another data set.
    """
    if not isinstance(arrays.x, Tensor):
        raise UserError("data.augmented requires a data set that is held in memory")
    manifest = read_manifest(folder)
    if manifest["content"] != content:
        raise UserError(
            f"data.augmented={folder} was created for different data: {manifest.get('data', 'unnamed')} with fingerprint "
            f"{manifest['content']}, current data {content}"
        )
    path = folder / SAMPLES_FILE
    try:
        with path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        if digest != manifest["sha256"]:
            raise UserError(
                f"data.augmented={folder}: {SAMPLES_FILE} does not match the checksum in its manifest; {HINT}"
            )
        tensors = load_file(path)
        x, y, source = tensors["x"], tensors["y"], tensors["source"]
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(f"data.augmented={folder}: {SAMPLES_FILE} cannot be read: {error}; {HINT}") from error
    if x.dtype != arrays.x.dtype or x.shape[1:] != arrays.x.shape[1:] or y.dtype != arrays.y.dtype:
        raise UserError(f"data.augmented={folder}: its samples differ in shape or dtype from the data set")
    mine = torch.isin(source, splits["train"])
    return append_training_samples(arrays, splits, x[mine], y[mine], f"{content} {digest}")


def append_training_samples(
    arrays: Any, splits: dict[str, Tensor], x: Tensor, y: Tensor, content: str
) -> tuple[Any, dict[str, Tensor]]:
    """Append samples x [M, …] and y [M] to the training part; `content` identifies the result in the fingerprint."""
    added = torch.arange(len(arrays.y), len(arrays.y) + len(y))
    digest = hashlib.sha256(content.encode()).hexdigest()
    whole = replace(arrays, x=torch.cat([arrays.x, x]), y=torch.cat([arrays.y, y]), content=digest)
    return whole, {**splits, "train": torch.cat([splits["train"], added])}
