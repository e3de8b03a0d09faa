"""``touchstone doctor``: what this installation has, and how to get what is missing."""

import os
import platform
import shutil
import sqlite3
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import Annotated

from omegaconf import OmegaConf
from packaging.requirements import Requirement

from lightning_modules.cli.arguments import verb
from lightning_modules.cli.json_output import NotAsExpected
from lightning_modules.config.errors import UserError, first_line

_NAME = "touchstone-harness"
_SHOWN = ("torch", "pytorch-lightning", "mlflow", "hydra-core", "optuna")
_DEVELOPMENT = ("dev", "reference", "interop")  # extras that no run needs
_Check = Iterator[tuple[str, str, bool]]  # what, its state, whether it works


@verb("[KEY=VALUE …]", ("", "tracking.uri=http://127.0.0.1:5000"))
def main(
    tracking__uri: Annotated[str | None, "the store (default: MLFLOW_TRACKING_URI or mlruns/mlflow.db)"] = None,
) -> list[dict[str, object]]:
    """Print versions, devices, threads, the store, free disk space, the data sets that are found, and what is missing with
    the command that gets it. The exit code is 1 only where something is broken that every run needs."""
    found: list[dict[str, object]] = []
    for check in (check_versions(), check_devices(), check_store(tracking__uri), check_extras(), check_data_sets()):
        for what, state, works in check:
            print(f"{what:9} {'' if works else 'BROKEN: '}{state}", flush=True)
            found.append({"what": what, "state": state, "works": works})
    if broken := [str(one["what"]) for one in found if not one["works"]]:
        print(f"\nbroken: {', '.join(broken)}", file=sys.stderr)
        raise NotAsExpected(found)
    return found


def missing_requirements(extra: str = "") -> list[str]:
    """The requirements of the package, or of one of its extras, that are not fulfilled."""
    found = []
    for requirement in map(Requirement, requires(_NAME) or ()):
        of_extra = requirement.marker is not None and "extra" in str(requirement.marker)
        if of_extra != bool(extra) or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        wanted = f"{requirement.name}{requirement.specifier}"
        try:
            installed = version(requirement.name)
            fits = requirement.specifier.contains(installed, prereleases=True)
            found += [] if fits else [f"{wanted} ({installed} is installed)"]
        except PackageNotFoundError:
            found.append(wanted)
    return found


def check_versions() -> _Check:
    if missing := missing_requirements():
        yield "packages", f"missing: {', '.join(missing)}; get them: pip install {_NAME}", False
    else:
        yield (
            "versions",
            ", ".join([f"python {platform.python_version()}", *(f"{n} {version(n)}" for n in _SHOWN)]),
            True,
        )


def check_devices() -> _Check:
    try:
        import torch
    except Exception as error:  # a broken installation of torch raises anything
        yield "devices", f"torch cannot be imported: {first_line(error)}", False
        return
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    gpus += ["mps"] if torch.backends.mps.is_available() else []
    yield "devices", f"{', '.join(gpus) or 'no GPU'}; {os.cpu_count()} CPU cores", True
    yield "threads", f"{torch.get_num_threads()} (OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', '')})", True


def check_store(given: str | None) -> _Check:
    from lightning_modules.tracking.secrets import mask_secrets
    from lightning_modules.tracking.store import open_store, sqlite_path, store_uri

    uri = store_uri(given)
    state = "the first run creates it"
    try:
        folder = sqlite_path(uri).parent if uri.startswith("sqlite:") else None
        if folder is None or sqlite_path(uri).exists():
            state = f"{len(open_store(uri).client.search_experiments())} experiments"
        yield "store", f"{mask_secrets(uri)} ({state})", True
    except (UserError, OSError, sqlite3.Error) as error:
        yield "store", f"{mask_secrets(uri)}: {mask_secrets(first_line(error))}", False
        return
    for place in [one for one in (folder, *folder.parents) if one.exists()][:1] if folder else ():
        free, usable = shutil.disk_usage(place).free / 1e9, place.is_dir() and os.access(place, os.W_OK)
        yield (
            "disk",
            f"{free:.1f} GB free, {place} is {'' if usable else 'not '}a folder that can be written to",
            usable,
        )


def check_data_sets() -> _Check:
    """Which data sets load; options for files and classes of the user's own are left out."""
    from hydra import compose
    from hydra.utils import instantiate

    from lightning_modules.config.command_line import options_of
    from lightning_modules.config.search_path import config_search_path
    from lightning_modules.data.files import data_root

    with config_search_path(), warnings.catch_warnings(action="ignore"):
        nodes = {option: compose("train", [f"data={option}"]).data for option in sorted(options_of("data"))}
    found, missing = [], []
    for option, node in nodes.items():
        target = "" if OmegaConf.is_missing(node, "_target_") else str(node._target_)
        if not target.startswith("lightning_modules.zoo.data.") or "large_data" in target:
            continue
        try:
            instantiate(node).load()
            found.append(option)
        except UserError:
            missing.append(option)
    yield "data", f"in {data_root()}: {', '.join(found)}", True
    download = ", ".join(option for option in missing if "download" in nodes[option]) or "none of them"
    how = f"touchstone train data=NAME prints where it looks; data.download=true downloads {download}"
    yield "", f"not found: {', '.join(missing) or 'none'}; {how}", True


def check_extras() -> _Check:
    for extra in metadata(_NAME).get_all("Provides-Extra") or ():
        if extra not in _DEVELOPMENT and (missing := missing_requirements(extra)):
            yield "extra", f"{extra}: {', '.join(missing)} missing; get it: pip install '{_NAME}[{extra}]'", True
