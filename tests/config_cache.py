"""Hydra parses each file of configs once a process: most of what hundreds of tests do is composing.

Commands and trials, which have processes of their own, compose without this; tests/configs/test_configs.py compares the two.
"""

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra._internal import config_repository, defaults_list

_load_config = config_repository.ConfigRepository.load_config
_known_choices = defaults_list._create_interpolation_map
_parsed: dict[Any, bytes] = {}


def install() -> None:
    config_repository.ConfigRepository.load_config = load_config
    defaults_list._create_interpolation_map = known_choices


@contextlib.contextmanager
def without_cache() -> Iterator[None]:
    """Compose as Hydra does."""
    config_repository.ConfigRepository.load_config = _load_config
    defaults_list._create_interpolation_map = _known_choices
    try:
        yield
    finally:
        install()


def load_config(self: Any, config_path: str) -> Any:
    """A copy of the parsed file, for composing changes it; parsed again where the file has changed."""
    folders = [source.path for source in self.sources]
    files = [Path(folder) / f"{config_path}.yaml" for folder in folders]
    key = (config_path, *folders, *(file.stat().st_mtime_ns for file in files if file.is_file()))
    if key not in _parsed:
        _parsed[key] = pickle.dumps(_load_config(self, config_path))
    return pickle.loads(_parsed[key])  # noqa: S301 (of this process)


def known_choices(overrides: Any, defaults: list[Any], self_added: bool) -> Any:
    """What an interpolation in a defaults list may name: made only where there is one."""
    return _known_choices(overrides, defaults, self_added) if any(d.is_interpolation() for d in defaults) else None
