"""Composing with Hydra from all config roots: in train, in the processes of a sweep, and in messages that list options."""

import contextlib
import sys
from collections.abc import Iterator

from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.plugins.search_path_plugin import SearchPathPlugin

from lightning_modules.compat.hydra import register_plugins
from lightning_modules.config.project import CONF, config_roots


class ConfigRoots(SearchPathPlugin):
    """Puts the other config roots before ours, which is Hydra's main one."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in config_roots():
            if folder != CONF.resolve():
                search_path.prepend("touchstone", f"file://{folder}", "main")


def register_config_roots() -> None:
    """Register the plugin with Hydra, once for a process."""
    register_plugins("touchstone_roots", sys.modules[__name__], (ConfigRoots,))


@contextlib.contextmanager
def config_search_path() -> Iterator[None]:
    """Hydra's global state, anew, with all config roots; afterwards that of the caller, which may be an app of Hydra."""
    register_config_roots()
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = before
