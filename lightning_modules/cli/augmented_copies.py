"""Write augmented copies of a training set to disk, for runs with ``data.augmented=FOLDER``."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file
from torch import Tensor

from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.data.augmented_copies import MANIFEST_FILE, SAMPLES_FILE
from lightning_modules.run.build import build_data
from lightning_modules.task.rng import derive_seed
from lightning_modules.tracking.store import require_free_space

_BATCH_SIZE = 256


@dataclass(frozen=True)
class AugmentRequest:
    """What to write: so many copies of each training sample of the config that `words` compose, into `out`."""

    words: Sequence[str]
    out: Path
    copies: int = 1
    overwrite: bool = False


def write_copies(wish: AugmentRequest) -> dict[str, Any]:
    """Write samples and manifest into the folder `out`, all or nothing; return the manifest.

    Raises:
        UserError: nothing to augment with, a folder that holds something already, samples that are mixed with others or
            that are not in memory, a full disk.
    """
    if wish.copies < 1:
        raise UserError(f"copies={wish.copies} must be at least 1")
    if wish.out.exists() and not (wish.overwrite and (wish.out / MANIFEST_FILE).exists()):
        holds = (
            "use overwrite=true to replace it"
            if (wish.out / MANIFEST_FILE).exists()
            else "and contains no augmented copies"
        )
        raise UserError(f"out={wish.out} exists already; {holds}")
    cfg = compose_run(wish.words)
    if not (cfg.get("augmentation") or {}).get("transforms"):
        raise UserError("augmentation=none: choose one, e.g. augmentation=image_basic")
    data = build_data(cfg)
    if not data.in_memory:
        raise UserError(f"data={data.name}: its samples are decoded on the fly; only in-memory data sets can be copied")
    wish.out.parent.mkdir(parents=True, exist_ok=True)
    require_free_space(wish.out.parent, wish.copies * len(data.splits["train"]) * data.bytes_per_sample)
    tensors = _augment(cfg, data, wish.copies)
    part = wish.out.with_name(f".{wish.out.name}.{os.getpid()}.part")
    try:
        part.mkdir()
        save_file(tensors, part / SAMPLES_FILE)
        manifest = _manifest(cfg, data, wish, part / SAMPLES_FILE)
        (part / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        if wish.out.exists():
            shutil.rmtree(wish.out)
        part.rename(wish.out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return manifest


def _augment(cfg: DictConfig, data: Any, copies: int) -> dict[str, Tensor]:
    """x [copies * N, …], y and the index of the source of each."""
    transforms, generator = instantiate(cfg.augmentation), torch.Generator()
    transforms.prepare(data)
    drawn: list[tuple[Tensor, Tensor, Tensor]] = []
    for copy in range(copies):
        for number, index in enumerate(data.splits["train"].split(_BATCH_SIZE)):
            batch = {"x": data.arrays.x.index_select(0, index), "y": data.arrays.y[index], "index": index}
            out = transforms(batch, generator.manual_seed(derive_seed(int(cfg.seed), number, copy)))
            if out["y"] is not batch["y"] or set(out) != set(batch):
                raise UserError(
                    f"augmentation={cfg.choices.augmentation}: what it adds to a batch (mixed targets, negatives) belongs to a "
                    "step and cannot be saved with a sample"
                )
            if out["x"].dtype != batch["x"].dtype or out["x"].shape != batch["x"].shape:
                raise UserError(f"augmentation={cfg.choices.augmentation}: it changes the shape or type of the samples")
            drawn.append((out["x"], out["y"], index))
    x, y, source = (torch.cat(part).contiguous() for part in zip(*drawn, strict=True))
    return {"x": x, "y": y, "source": source}


def _manifest(cfg: DictConfig, data: Any, wish: AugmentRequest, samples: Path) -> dict[str, Any]:
    with samples.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return {
        "data": data.name,
        "content": data.content_fingerprint(),
        "augmentation": OmegaConf.to_container(cfg.augmentation, resolve=True),
        "seed": int(cfg.seed),
        "copies": wish.copies,
        "samples": wish.copies * len(data.splits["train"]),
        "overrides": list(wish.words),
        "sha256": digest,
        "torch": torch.__version__,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }
