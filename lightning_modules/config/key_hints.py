"""Hints for a wrong option or key on the command line: where the config has one of that name."""

import importlib.util
import re
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lightning_modules.config.plain import flatten
from lightning_modules.config.project import config_roots


def options_with_name(group: str, name: str) -> list[str]:
    """The options of a group that have this `name`: listed in their file, or of a network in the library they stand for."""
    files = {path.stem: path for root in reversed(config_roots()) for path in (root / group).glob("*.yaml")}
    listed = {
        option: re.search(r"^name: (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        for option, path in files.items()
    }
    return [
        option
        for option, names in sorted(listed.items(), reverse=True)
        if names and (name in re.findall(r"[\w-]+", names[1]) or _defines_network(option, name))
    ]


def options_with_part(group: str, name: str) -> list[str]:
    """The options of a group whose file has a transform of this name or class: ``crop_flip``, ``CropFlip``."""
    part = re.compile(rf"(^ +|\.){re.escape(name)}:?$", re.MULTILINE)
    files = {path.stem: path for root in reversed(config_roots()) for path in (root / group).glob("*.yaml")}
    return sorted(option for option, path in files.items() if part.search(path.read_text(encoding="utf-8")))


def _defines_network(library: str, name: str) -> bool:
    """Whether a library such as torchvision or timm has a model of this name; its files are read, not imported."""
    spec = importlib.util.find_spec(library)
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or () for file in Path(folder, "models").rglob("*.py")]
    return any(f"\ndef {name}(" in file.read_text(encoding="utf-8", errors="replace") for file in files)


def same_key_elsewhere(cfg: DictConfig, name: str) -> str:
    """Return ``did you mean 'optimizer.lr'?`` for ``lr``: where the config has a key of this name; empty if nowhere."""
    keys = flatten(OmegaConf.to_container(cfg, resolve=False))
    found = [f"'{key}'" for key in keys if key.rpartition(".")[2] == name]
    return f"did you mean {' or '.join(found)}?" if 0 < len(found) <= 3 else ""
