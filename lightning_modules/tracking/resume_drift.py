"""Differences between a recorded run and the run that resumes it, and which of them are accepted."""

import math
from collections.abc import Mapping, Sequence

from omegaconf import DictConfig, OmegaConf

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.config.plain import PlainDict, flatten, to_plain
from lightning_modules.tracking.run_cache import affects_results
from lightning_modules.tracking.secrets import HIDDEN
from lightning_modules.tracking.tags import DATA_FINGERPRINT_TAG

# Keys that a resumed run may change: how long and where it trains, and how it is displayed.
_CHANGEABLE = {
    "claim", "trainer.max_epochs", "trainer.min_epochs", "trainer.max_steps", "trainer.min_steps",
    "trainer.max_time", "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.benchmark",
    "trainer.deterministic", "trainer.detect_anomaly", "trainer.num_sanity_val_steps", "strategy.start_method",
    "data.device", "data.cache_dir", "data.download", "data.pin_memory", "data.expected_fingerprint",
}  # fmt: skip
_STEP_SIZE_KEYS = ("data.batch_size", "trainer.accumulate_grad_batches")


def resume_options(cfg: DictConfig) -> tuple[str | None, list[str]]:
    """The run to resume (None: a new run) and the accepted differences: ``resume=RUN 'resume.allow=[data]'``.

    In configs of earlier versions, and of callers from Python, `resume` may be the run itself.
    """
    node = cfg.get("resume")
    if not isinstance(node, DictConfig):
        return (None if node is None else str(node)), []
    allow = node.get("allow") or ()
    names = [allow] if isinstance(allow, str) else [str(name) for name in allow]
    return (None if node.get("run") is None else str(node.run)), names


def config_drift(recorded: DictConfig, cfg: DictConfig) -> dict[str, str]:
    """Key -> ``recorded -> now`` of every changed setting that affects results.

    Another batch size on another number of processes is no difference if a step has as many samples.
    """
    old, new = (flatten(to_plain(c)) for c in (recorded, cfg))
    free = {*_CHANGEABLE, *(_STEP_SIZE_KEYS if _same_step(old, new) else ())}
    changed = {}
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        same = str(before) == str(after) or before == HIDDEN  # secrets are not recorded
        if not same and affects_results(key) and key not in free:
            changed[key] = f"{before} -> {after}"
    return changed


def _same_step(old: PlainDict, new: PlainDict) -> bool:
    """Whether an optimizer step has the same number of samples."""
    keys = (*_STEP_SIZE_KEYS, "trainer.devices", "trainer.num_nodes")
    before, after = ([flat.get(key, 1) for key in keys] for flat in (old, new))
    return all(type(factor) is int for factor in [*before, *after]) and math.prod(before) == math.prod(after)


def data_drift(recorded: Mapping[str, str], fingerprint: str, samples: Mapping[str, int]) -> dict[str, str]:
    """The difference between the data of a recorded run (its tags) and the current data."""
    before = recorded.get(DATA_FINGERPRINT_TAG)
    if before in (None, fingerprint):
        return {}
    counts = {part: recorded.get(f"data.{part}") for part in samples}
    sizes = [f"{part} {counts[part]} -> {n}" for part, n in samples.items() if counts[part] not in (None, str(n))]
    return {"data": ", ".join([f"fingerprint {str(before)[:12]} -> {fingerprint[:12]}", *sizes])}


def refuse_drift(wanted: str, drift: Mapping[str, str], allow: Sequence[str]) -> None:
    """Raise UserError unless `allow` names every key of `drift`, or a parent of it."""
    allowed = tuple(f"{name}." for name in allow)
    refused = {key: change for key, change in drift.items() if not f"{key}.".startswith(allowed)}
    if not refused:
        return
    roots = ",".join([*allow, *dict.fromkeys(key.split(".")[0] for key in refused)])
    listed = "\n".join(f"  {key}: {change}" for key, change in refused.items())
    raise UserError(
        f"{wanted}: cannot resume with settings or data that differ from the record and affect the "
        f"results (recorded -> now):\n{listed}\n"
        f"Restore them, start a new run, or accept the difference (it is recorded) with 'resume.allow=[{roots}]'"
    )


def check_allow(allow: Sequence[str], cfg: DictConfig) -> None:
    """Raise UserError for a name in ``resume.allow`` that is not a key of the config."""
    for name in allow:
        if name not in cfg and OmegaConf.select(cfg, name) is None:
            names = [str(key) for key in cfg if affects_results(str(key))]
            raise UserError(f"resume.allow=[{name}]: the config has no '{name}'; {suggest(name, names)}")
