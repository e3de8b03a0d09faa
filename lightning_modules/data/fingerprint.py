"""Data fingerprints: a sha256 over all values of a data set, its split and its preprocessing."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from lightning_modules.data.files import cache_folder, write_atomic


def tensor_digest(*tensors: Tensor) -> str:
    """Return the sha256 of dtype, shape and bytes of the tensors, in order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.reshape(-1).view("uint8").data)
    return digest.hexdigest()


def files_digest(root: Path, files: Sequence[Path]) -> str:
    """Return the sha256 of the files' paths relative to `root` and their contents."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        digest.update(os.fsencode(file.relative_to(root).as_posix()) + f"\0{content}\n".encode())
    return digest.hexdigest()


def hash_files(files: Sequence[Path], quick: bool = False) -> str:
    """A sha256 over the contents of files, cached, or (`quick`) over their names, sizes and modification times."""
    files = sorted(files)
    if not quick:
        root = Path(os.path.commonpath([file.parent for file in files]))
        return cached_digest(cache_folder(), "files", files, lambda: files_digest(root, files))
    listed = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def cached_digest(cache: Path, kind: str, files: Sequence[Path], compute: Callable[[], str]) -> str:
    """Return `compute()`, cached by `kind` and every file's path, size and modification time (ns).

    One small JSON file per key, written atomically, so that concurrent processes cannot lose entries.
    """
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(json.dumps([kind, stats]).encode()).hexdigest()
    entry = cache / "fingerprints" / f"{key}.json"
    try:
        known = json.loads(entry.read_text())["digest"]
        if isinstance(known, str) and len(known) == 64:
            return known
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no entry or a damaged one: hash again
    digest = compute()
    record = {"digest": digest, "kind": kind, "files": len(files), "first": str(files[0]) if files else None}
    write_atomic(entry, json.dumps(record).encode())
    return digest


def describe_preprocess(preprocess: nn.Module) -> list[str]:
    """Describe a preprocessing: its classes, and the constants that were not fitted on the training part.

    For third-party modules the plain attributes count too; our modules keep their settings in buffers.
    """
    parts = []
    for name, module in preprocess.named_modules():
        fitted = bool(getattr(module, "fitted", False))
        constants = {} if fitted else dict(module.named_buffers(recurse=False))
        values = tensor_digest(*(constants[key] for key in sorted(constants)))
        parts.append(f"{name}:{type(module).__qualname__}:fitted={fitted}:{values}")
        if not type(module).__module__.startswith(("lightning_modules.", "torch.nn.modules.container")):
            plain = {k: v for k, v in vars(module).items() if isinstance(v, bool | int | float | str) and k[0] != "_"}
            plain.pop("training")
            parts += [json.dumps(plain, sort_keys=True)] * bool(plain)
    return parts


def combine_fingerprint(content: str, splits: Mapping[str, Tensor], preprocess: nn.Module) -> str:
    """Return the fingerprint of a prepared data set (sha256, hex)."""
    parts = {
        "content": content,
        "splits": {name: tensor_digest(splits[name]) for name in sorted(splits)},
        "preprocess": describe_preprocess(preprocess),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
