"""Run cache: a run's signature hashes its config, code and data."""

import functools
import hashlib
import json
from collections.abc import Mapping

from lightning_modules.config.plain import flatten
from lightning_modules.config.project import PACKAGE
from lightning_modules.tracking.params import BOOKKEEPING
from lightning_modules.tracking.store import Store
from lightning_modules.tracking.tags import SIGNATURE_TAG
from lightning_modules.tracking.user_code import digest, user_modules

# Beside `BOOKKEEPING`: keys that affect how a run is found or distributed over cores, but not its results.
_IGNORED_GROUPS = ("search", "overrides", "cpu_threads", "steps_per_call")
_LOCATION_KEYS = {
    "root", "path", "folder", "dirpath", "num_workers", "log_every_n_steps", "profiler", "threads", "timeout_s", "device",
}  # fmt: skip


class CachedRun(Exception):  # noqa: N818 # not an error
    """A finished run with the same signature exists; the argument is its id."""


def run_signature(config: Mapping[str, object], fingerprint: str) -> str:
    """A sha256 over config, code and data fingerprint, without paths, logging and worker counts.

    Code means this package and the user's modules, if any (`user_code.py`).

    Args:
        config: resolved, as plain values.
    """
    told = {key: value for key, value in flatten(config).items() if affects_results(key)}
    own = digest(user_modules(config))
    text = json.dumps([told, _code_digest(), fingerprint, *([own] if own else [])], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def affects_results(key: str) -> bool:
    """Whether a dotted config key affects results: it is not a path, logging, or about how work is distributed."""
    is_place = key.rpartition(".")[2] in _LOCATION_KEYS
    return not BOOKKEEPING.match(key) and key.split(".")[0] not in _IGNORED_GROUPS and not is_place


@functools.cache
def _code_digest() -> str:
    """A sha256 of the package's sources."""
    total = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        total.update(str(path.relative_to(PACKAGE.parent)).encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def find_cached_run(store: Store, experiment: str, signature: str) -> str | None:
    """The id of the newest FINISHED run of this experiment with this signature, or None."""
    condition = f"tags.`{SIGNATURE_TAG}` = '{signature}' AND attributes.status = 'FINISHED'"
    found = store.newest_run(condition, store.experiment(experiment))
    return str(found.info.run_id) if found else None
