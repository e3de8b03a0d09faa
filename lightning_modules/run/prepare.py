"""Check and build all parts of a run; every mistake that can be found before the first step is found here."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf, open_dict

from lightning_modules.config.check import check_config
from lightning_modules.config.errors import UserError
from lightning_modules.config.trust import untrusted
from lightning_modules.run import build
from lightning_modules.run.compression import Compression, build_compression
from lightning_modules.run.cuda import set_matmul_precision
from lightning_modules.run.preflight import check_parts
from lightning_modules.run.process import is_rank_zero, set_threads
from lightning_modules.task.supervised import Supervised
from lightning_modules.tracking.elastic import resume_after_restart
from lightning_modules.tracking.resume import ResumedRun, continue_run, load_weights, resume_run
from lightning_modules.tracking.resume_drift import resume_options
from lightning_modules.tracking.run_cache import CachedRun, find_cached_run, run_signature
from lightning_modules.tracking.store import Store, open_store, require_free_space
from lightning_modules.tracking.tags import SIGNATURE_TAG


@dataclass(frozen=True)
class RunParts:
    """What a run consists of. `store`: None with ``tracking=none``; `resumed`: None for a new run; `tags`: of its record."""

    cfg: DictConfig
    store: Store | None
    data: Any
    task: Supervised
    callbacks: list[pl.Callback]
    compression: Compression
    resumed: ResumedRun | None
    tags: Mapping[str, str]

    @property
    def is_recorded(self) -> bool:
        """Whether this process records the run."""
        return self.store is not None and is_rank_zero()


def prepare(
    cfg: DictConfig, tags: Mapping[str, str], extra: Sequence[pl.Callback], continue_in: str | None, skip_cached: bool
) -> RunParts:
    """Check the config, build the parts and check them; arguments and errors as in `run`."""
    store, resumed = _open(cfg, continue_in)
    cfg = resumed.cfg if resumed else cfg
    set_threads(cfg)
    set_matmul_precision(cfg)
    data = build.build_data(cfg)
    resumed = resumed and resumed.check_data(data.fingerprint(), split_sizes(data))
    build.infer_shapes(cfg, data)
    callbacks = [*build.build_callbacks(cfg), *extra]
    task = build.build_task(cfg, data, callbacks)
    task.task_spec = build.task_spec(cfg, data)
    check_parts(cfg, task, data, callbacks)
    if cfg.init_from:
        load_weights(store or open_store(cfg.tracking.get("uri")), str(cfg.init_from), task)
    compression = build_compression(cfg, task, data)
    marks = dict(tags)
    if store:
        signature = run_signature(plain_config(cfg), data.fingerprint())
        if skip_cached and (cached := find_cached_run(store, cfg.tracking.experiment, signature)):
            raise CachedRun(cached)
        marks[SIGNATURE_TAG] = signature
        resumed = resumed or resume_after_restart(store, cfg, data.fingerprint(), marks, is_rank_zero())
        marks |= resumed.marks(signature) if resumed else {}
    return RunParts(cfg, store, data, task, callbacks, compression, resumed, marks)


def _open(cfg: DictConfig, continue_in: str | None) -> tuple[Store | None, ResumedRun | None]:
    """Check the config, open the store, and find the run to resume."""
    with open_dict(cfg):
        cfg.resume = dict(zip(("run", "allow"), resume_options(cfg), strict=True))
    check_config(cfg)
    wanted, lead = cfg.resume.run, is_rank_zero()
    if not cfg.tracking.enabled:
        if wanted is not None:
            raise UserError(f"resume={wanted}: tracking=none has no record of the run; choose another tracking")
        return None, None
    store = open_store(cfg.tracking.get("uri"))
    for mistake in untrusted(cfg) if lead else ():
        print(f"warning: {mistake}", file=sys.stderr)
    if wanted is not None:
        resumed = resume_run(store, cfg, alone=lead)
        check_config(resumed.cfg)
        return store, resumed
    return store, continue_run(store, continue_in, cfg, alone=lead) if continue_in else None


def require_disk_space(parts: RunParts) -> None:
    """Raise UserError unless the store's disk has space for the checkpoints and `tracking.min_free_mb` more."""
    assert parts.store is not None
    checkpoints = 8 * sum(p.numel() * p.element_size() for p in parts.task.parameters())
    require_free_space(parts.store.folder, int(parts.cfg.tracking.min_free_mb * 1e6) + checkpoints)


def split_sizes(data: Any) -> dict[str, int]:
    """Number of samples of each split, by the names under which they are recorded."""
    return {f"{part}_samples": len(index) for part, index in data.splits.items()}


def plain_config(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config of the run itself, without its sweep and claim."""
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    return {key: value for key, value in plain.items() if key not in ("sweep", "search", "claim")}
