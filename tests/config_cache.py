"""Hydra parses each file of configs once a process: most of what hundreds of tests do is composing.

Commands and trials, which have processes of their own, compose without this; tests/configs/test_configs.py compares the two.
"""

import contextlib
import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra._internal import config_loader_impl, config_repository, defaults_list
from omegaconf import OmegaConf, flag_override

_load_config = config_repository.ConfigRepository.load_config
_known_choices = defaults_list._create_interpolation_map
_copy_repository = config_repository.CachingConfigRepository.__init__
_embed = config_loader_impl.ConfigLoaderImpl._embed_result_config
_parsed: dict[Any, bytes] = {}


def install() -> None:
    config_repository.ConfigRepository.load_config = load_config
    defaults_list._create_interpolation_map = known_choices
    config_repository.CachingConfigRepository.__init__ = copy_repository
    config_loader_impl.ConfigLoaderImpl._embed_result_config = staticmethod(embed)


@contextlib.contextmanager
def without_cache() -> Iterator[None]:
    """Compose as Hydra does."""
    config_repository.ConfigRepository.load_config = _load_config
    defaults_list._create_interpolation_map = _known_choices
    config_repository.CachingConfigRepository.__init__ = _copy_repository
    config_loader_impl.ConfigLoaderImpl._embed_result_config = staticmethod(_embed)
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


def copy_repository(self: Any, delegate: Any) -> None:
    """Nothing but the list of its sources is replaced, so a shallow copy of the repository is enough."""
    self.delegate, self.cache = copy.copy(delegate), {}


def embed(result: Any, package_override: str | None) -> Any:
    """A config below the name of its package, copied by pickle, which takes a fraction of OmegaConf's own copying."""
    package = result.header["package"] if package_override is None else package_override
    if not package:
        return result
    embedded, cfg = copy.copy(result), OmegaConf.create()
    with flag_override(cfg, "no_deepcopy_set_nodes", True):
        OmegaConf.update(cfg, package, pickle.loads(pickle.dumps(result.config)), merge=False)  # noqa: S301
    embedded.config = cfg
    return embedded
