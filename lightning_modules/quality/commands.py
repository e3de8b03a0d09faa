"""The commands of ``touchstone data``: inspect, clean and split, each with a composed config."""

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from lightning_modules.config.command_line import override_mistakes
from lightning_modules.config.errors import UserError, first_line
from lightning_modules.config.plain import to_plain
from lightning_modules.config.search_path import config_search_path
from lightning_modules.data.in_memory import InMemoryData
from lightning_modules.quality.exclusion_list import describe_split, exclusions
from lightning_modules.quality.findings import build_report, find_issues
from lightning_modules.quality.indexed_data import read_by_index
from lightning_modules.quality.outputs import (
    default_path,
    log_results,
    replace_non_finite,
    report_metrics,
    write_json,
    write_report,
)
from lightning_modules.quality.settings import QualitySettings, parse_settings
from lightning_modules.quality.table_columns import repaired_table, write_table
from lightning_modules.quality.terminal_report import count_exclusions, show_exclusions, show_report, show_split
from lightning_modules.run.build import build_data
from lightning_modules.tracking.store import Store, open_store

# With these a table is read that cannot be used as it is.
TABLE_SETTINGS: dict[str, object] = {"missing": "mean", "categories": "ordinal", "dates": ["year", "month", "day"]}


def compose_quality(overrides: Sequence[str]) -> DictConfig:
    """Compose conf/quality.yaml. Raises UserError listing all mistakes in the overrides."""
    try:
        with config_search_path():
            return compose("quality", list(overrides))
    except (HydraException, ValueError) as error:
        mistakes = override_mistakes(list(overrides), "quality") or [first_line(error)]
        count = f"{len(mistakes)} mistakes" if len(mistakes) > 1 else "A mistake"
        text = f"{count} on the command line:\n" + "\n".join(f"  {mistake}" for mistake in mistakes)
        raise UserError(text) from error


def inspect_data(cfg: DictConfig) -> dict[str, object]:
    """Run all checks; print, log and return the report, and write it to the folder `out` if it is set."""
    settings, store = _prepare(cfg)
    data = _read(cfg, "data", read_by_index)
    other = _read(cfg, "other", read_by_index) if cfg.get("other") else None
    findings = find_issues(data, settings)
    found = build_report(findings, other)
    show_report(found)
    if store is None and not cfg.out:
        return found
    with tempfile.TemporaryDirectory() as folder:
        files = write_report(Path(cfg.out or folder).expanduser(), findings, found)
        for path in files if cfg.out else ():
            print(f"written: {path}")
        log_results(store, cfg.tracking.experiment, "inspect", _logged_config(cfg), found, report_metrics(found), files)
    return found


def write_exclusions(cfg: DictConfig) -> dict[str, object]:
    """Write the list of samples to exclude, and return it."""
    settings, store = _prepare(cfg)
    data = _read(cfg, "data")
    record = exclusions(find_issues(data, settings, wants_labels=settings.rules.label_errors != 0))
    path = Path(cfg.out).expanduser() if cfg.out else default_path("exclude", record)
    if cfg.table:
        listed: Any = record["excluded"]
        excluded = [entry["index"] for entry in listed if entry["part"] == "pool"]
        write_table(Path(cfg.table).expanduser(), repaired_table(data, excluded))
        print(f"written: {cfg.table}, the repaired table")
    write_json(path, record)
    show_exclusions(record)
    print(f"written: {path}\nuse it with: data.exclude={path}")
    counts = count_exclusions(record)
    metrics = {"excluded": float(counts.total())}
    metrics |= {f"excluded/{kind.replace(' ', '_')}": float(count) for kind, count in counts.items()}
    log_results(store, cfg.tracking.experiment, "clean", _logged_config(cfg), record, metrics, [path])
    return {"path": path, **record}


def write_split(cfg: DictConfig) -> dict[str, object]:
    """Write the split, and return it with its checks."""
    settings, store = _prepare(cfg)
    data = _read(cfg, "data")
    found = replace_non_finite(describe_split(find_issues(data, settings, wants_labels=False)))
    path = Path(cfg.out).expanduser() if cfg.out else default_path("split", found)
    write_json(path, found)
    show_split(found)
    print(f"written: {path}")
    metrics = {f"samples/{part}": float(inner["samples"]) for part, inner in found["parts"].items()}
    metrics |= {f"holds/{name}": float(check["holds"]) for name, check in found["checks"].items()}
    log_results(store, cfg.tracking.experiment, "split", _logged_config(cfg), found, metrics, [path])
    return {"path": path, **found}


def _prepare(cfg: DictConfig) -> tuple[QualitySettings, Store | None]:
    """Return the settings and the store, opened before any data are read; None if logging is disabled."""
    keys = [str(key) for key in cfg if key not in ("data", "other", "tracking")]
    settings = parse_settings(to_plain(OmegaConf.masked_copy(cfg, keys)))
    return settings, open_store(cfg.tracking.get("uri")) if cfg.tracking.enabled else None


def _logged_config(cfg: DictConfig) -> dict[str, object]:
    return {key: value for key, value in to_plain(cfg).items() if key != "tracking"}


def _data_config(cfg: DictConfig, key: str) -> DictConfig:
    """The config of a datamodule, as that of a run. Raises UserError if it is missing."""
    node = cfg.get(key)
    if not (OmegaConf.is_config(node) and node.get("_target_")):
        raise UserError(f"{key}={node}: expected a data set, for example {key}=digits")
    return OmegaConf.create({"data": to_plain(node)})


def _read(cfg: DictConfig, key: str, read: Callable[[DictConfig], InMemoryData] = build_data) -> InMemoryData:
    """Read the data of a key; a table that cannot be used as it is with `TABLE_SETTINGS`."""
    given = _data_config(cfg, key)
    try:
        return read(given)
    except UserError:
        if not str(given.data._target_).endswith(".Tabular"):
            raise
    unset = {name: value for name, value in TABLE_SETTINGS.items() if not given.data.get(name)}
    found = read(OmegaConf.create({"data": {**given.data, **unset}}))
    listed = " ".join(f"{key}.{name}={value}" for name, value in unset.items())
    print(f"the table has columns that cannot be used as they are; read with {listed}", file=sys.stderr)
    return found


COMMANDS = {"inspect": inspect_data, "clean": write_exclusions, "split": write_split}
