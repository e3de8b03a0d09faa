"""The commands of ``touchstone data``: inspect, clean and split, each with a composed config."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightning_modules.config.command_line import override_mistakes
from lightning_modules.config.errors import UserError
from lightning_modules.config.project import PROJECT_ROOT


def compose_quality(overrides: Sequence[str]) -> DictConfig:
    """Compose conf/quality.yaml. Raises UserError listing all mistakes in the overrides."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    conf = PROJECT_ROOT / "conf"
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            return compose("quality", list(overrides))
    except (HydraException, ValueError) as error:
        mistakes = override_mistakes(list(overrides), conf, "quality") or [str(error).splitlines()[0]]
        count = f"{len(mistakes)} mistakes" if len(mistakes) > 1 else "A mistake"
        text = f"{count} on the command line:\n" + "\n".join(f"  {mistake}" for mistake in mistakes)
        raise UserError(text) from error


def inspect_data(cfg: DictConfig) -> None:
    """Run all checks; print and log the report, and write it to the folder `out` if it is set."""
    import tempfile

    from lightning_modules.quality.findings import build_report, find_issues
    from lightning_modules.quality.outputs import log_results, report_metrics, write_report
    from lightning_modules.quality.settings import parse_settings
    from lightning_modules.quality.terminal_report import show_report

    settings, store = parse_settings(_settings_values(cfg)), _open_store(cfg)
    data = _build_datamodule(cfg, "data")
    other = _build_datamodule(cfg, "other") if cfg.get("other") else None
    findings = find_issues(data, settings)
    found = build_report(findings, other)
    show_report(found)
    if store is None and not cfg.out:
        return
    with tempfile.TemporaryDirectory() as folder:
        files = write_report(Path(cfg.out or folder).expanduser(), findings, found)
        for path in files if cfg.out else ():
            print(f"written: {path}")
        log_results(store, cfg.tracking.experiment, "inspect", _logged_config(cfg), found, report_metrics(found), files)


def write_exclusions(cfg: DictConfig) -> None:
    """Write the list of samples to exclude."""
    from lightning_modules.quality.exclusion_list import exclusions
    from lightning_modules.quality.findings import find_issues
    from lightning_modules.quality.outputs import default_path, log_results, write_json
    from lightning_modules.quality.settings import parse_settings
    from lightning_modules.quality.terminal_report import exclusion_kind, show_exclusions

    settings, store = parse_settings(_settings_values(cfg)), _open_store(cfg)
    record = exclusions(
        find_issues(_build_datamodule(cfg, "data"), settings, wants_labels=settings.rules.label_errors != 0)
    )
    path = Path(cfg.out).expanduser() if cfg.out else default_path("exclude", record)
    write_json(path, record)
    show_exclusions(record)
    print(f"written: {path}\nuse it with: data.exclude={path}")
    metrics = {"excluded": float(len(record["excluded"]))}
    for entry in record["excluded"]:
        kind = f"excluded/{exclusion_kind(entry['why']).replace(' ', '_')}"
        metrics[kind] = metrics.get(kind, 0) + 1
    log_results(store, cfg.tracking.experiment, "clean", _logged_config(cfg), record, metrics, [path])


def write_split(cfg: DictConfig) -> None:
    """Write the split; exit with 1 if one of its checks fails."""
    from lightning_modules.quality.findings import find_issues
    from lightning_modules.quality.outputs import default_path, log_results, replace_non_finite, write_json
    from lightning_modules.quality.settings import parse_settings
    from lightning_modules.quality.split_report import describe_split
    from lightning_modules.quality.terminal_report import show_split

    settings, store = parse_settings(_settings_values(cfg)), _open_store(cfg)
    found = replace_non_finite(
        describe_split(find_issues(_build_datamodule(cfg, "data"), settings, wants_labels=False))
    )
    path = Path(cfg.out).expanduser() if cfg.out else default_path("split", found)
    write_json(path, found)
    show_split(found)
    print(f"written: {path}")
    metrics = {f"samples/{part}": float(inner["samples"]) for part, inner in found["parts"].items()}
    metrics |= {f"holds/{name}": float(check["holds"]) for name, check in found["checks"].items()}
    log_results(store, cfg.tracking.experiment, "split", _logged_config(cfg), found, metrics, [path])
    if not all(check["holds"] for check in found["checks"].values()):
        sys.exit(1)


def _settings_values(cfg: DictConfig) -> dict[str, Any]:
    return {str(key): OmegaConf.to_object(cfg[key]) if OmegaConf.is_config(cfg[key]) else cfg[key]
            for key in cfg if key not in ("data", "other", "tracking")}  # fmt: skip


def _logged_config(cfg: DictConfig) -> dict[str, Any]:
    found: Any = OmegaConf.to_container(cfg, resolve=True)
    return {key: value for key, value in found.items() if key != "tracking"}


def _open_store(cfg: DictConfig) -> Any:
    """Open the store before any data are read; None if logging is disabled."""
    from lightning_modules.tracking.store import open_store

    return open_store(cfg.tracking.get("uri")) if cfg.tracking.enabled else None


def _build_datamodule(cfg: DictConfig, key: str) -> Any:
    """Instantiate a datamodule and read the data. Raises UserError if that is not possible."""
    from hydra.utils import instantiate

    from lightning_modules.data.in_memory import InMemoryData

    node = cfg.get(key)
    if not (OmegaConf.is_config(node) and node.get("_target_")):
        raise UserError(f"{key}={node}: expected a data set, for example {key}=digits")
    data = instantiate(node)
    if not isinstance(data, InMemoryData):
        raise UserError(
            f"{key}._target_={node['_target_']}: this command supports only datamodules derived from InMemoryData"
        )
    data.setup()
    return data


COMMANDS = {"inspect": inspect_data, "clean": write_exclusions, "split": write_split}
