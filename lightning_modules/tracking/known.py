"""Whether a run was made before: its signature is what its outcome is a function of."""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_modules.tracking.flat import leaves
from lightning_modules.tracking.store import PROJECT_ROOT, Store

# What changes how a run is recorded, shown or spread over cores, but not what comes out of it.
_ROOMS = ("tracking", "name", "resume", "sweep", "search", "overrides", "choices", "cpu_threads", "steps_per_call")
_SHOWN = ("callbacks.progress.", "callbacks.summary.", "callbacks.learning_rate.", "callbacks.last.")
_PLACES = {
    "root",
    "path",
    "folder",
    "dirpath",
    "num_workers",
    "log_every_n_steps",
    "profiler",
    "threads",
    "timeout_s",
    "device",
}


class Known(Exception):  # noqa: N818 # nothing went wrong
    """A finished run of the same signature exists; the one argument is its id."""


def run_signature(config: Mapping[str, Any], fingerprint: str) -> str:
    """A sha256 over config, code and data fingerprint; paths, logging and worker counts stay out.

    Args:
        config: resolved, as plain values.
    """
    flat = leaves({key: value for key, value in config.items() if key not in _ROOMS})
    told = {key: value for key, value in flat.items() if not key.startswith(_SHOWN) and not _is_place(key)}
    text = json.dumps([told, _code(), fingerprint], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _is_place(key: str) -> bool:
    return key.rpartition(".")[2] in _PLACES


@functools.cache
def _code() -> str:
    """A sha256 over the package's sources."""
    total = hashlib.sha256()
    for path in sorted((PROJECT_ROOT / "lightning_modules").rglob("*.py")):
        total.update(str(path.relative_to(PROJECT_ROOT)).encode() + b"\0" + Path(path).read_bytes() + b"\0")
    return total.hexdigest()


def find_known(store: Store, experiment: str, signature: str) -> str | None:
    """The id of the newest FINISHED run of this experiment with this signature, or None."""
    found = store.client.search_runs(
        [store.experiment(experiment)],
        f"tags.`touchstone.signature` = '{signature}' AND attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return str(found[0].info.run_id) if found else None
