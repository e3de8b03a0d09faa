"""``touchstone augment``: augmented copies of a training set on disk, for runs with ``data.augmented=FOLDER``."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from lightning_modules.cli.arguments import verb
from lightning_modules.config.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import Tensor

    from lightning_modules.data.in_memory import InMemoryData

_BATCH_SIZE = 256


@verb("out=FOLDER [KEY=VALUE …]", ("out=copies copies=4 data=digits augmentation=image_basic",))
def main(
    out: Annotated[Path, "folder to write the copies to"],
    copies: Annotated[int, Ge(1), "copies of each sample"] = 1,
    overwrite: Annotated[bool, "replace copies that are in the folder"] = False,
    overrides: Annotated[Sequence[str], "data=, augmentation=, seed= and their keys, as for train"] = (),
) -> dict[str, object]:
    """Write augmented copies of the training part into a folder with a manifest (source, transforms, seed). touchstone train
    data.augmented=FOLDER then trains on them too: on those of its own training samples."""
    out = out.expanduser().resolve()
    manifest = write_copies(overrides, out, copies, overwrite)
    print(f"{manifest['samples']:,} copies of {manifest['data']} in {out}")
    print(f"train on them:  touchstone train data.augmented={out} …")
    print("a datamodule of yours:  add x and y of samples.safetensors to its training data set")
    return {"folder": out, **manifest}


def write_copies(words: Sequence[str], out: Path, copies: int = 1, overwrite: bool = False) -> dict[str, object]:
    """Write `copies` of each training sample of the config that `words` compose, all or nothing; return the manifest.

    Raises:
        UserError: nothing to augment with, a folder that holds something already, samples that are mixed with others or
            that are not in memory, a full disk.
    """
    from safetensors.torch import save_file

    from lightning_modules.config.command_line import compose_run
    from lightning_modules.data.augmented_copies import MANIFEST_FILE, SAMPLES_FILE
    from lightning_modules.quality.indexed_data import read_by_index
    from lightning_modules.tracking.store import require_free_space

    has_copies = (out / MANIFEST_FILE).exists()
    if out.exists() and not (overwrite and has_copies):
        holds = "use overwrite=true to replace it" if has_copies else "and contains no augmented copies"
        raise UserError(f"out={out} exists already; {holds}")
    cfg = compose_run(words)
    if not (cfg.get("augmentation") or {}).get("transforms"):
        raise UserError("augmentation=none: choose one, e.g. augmentation=image_basic")
    data = read_by_index(cfg)
    if not data.in_memory:
        raise UserError(f"data={data.name}: its samples are decoded on the fly; only in-memory data sets can be copied")
    out.parent.mkdir(parents=True, exist_ok=True)
    require_free_space(out.parent, copies * len(data.splits["train"]) * data.bytes_per_sample)
    tensors = _augment(cfg, data, copies)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.mkdir()
        save_file(tensors, part / SAMPLES_FILE)
        manifest = _manifest(cfg, data, words, copies, part / SAMPLES_FILE)
        (part / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return manifest


def _augment(cfg: "DictConfig", data: "InMemoryData", copies: int) -> "dict[str, Tensor]":
    """x [copies * N, …], y and the index of the source of each."""
    import torch
    from hydra.utils import instantiate

    from lightning_modules.task.rng import derive_seed

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


def _manifest(
    cfg: "DictConfig", data: "InMemoryData", words: Sequence[str], copies: int, samples: Path
) -> dict[str, object]:
    import torch
    from omegaconf import OmegaConf

    with samples.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return {
        "data": data.name,
        "content": data.content_fingerprint(),
        "augmentation": OmegaConf.to_container(cfg.augmentation, resolve=True),
        "seed": int(cfg.seed),
        "copies": copies,
        "samples": copies * len(data.splits["train"]),
        "overrides": list(words),
        "sha256": digest,
        "torch": torch.__version__,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }
