"""What we need of Hydra beyond its public interface."""

import importlib
import sys
import types
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydra.plugins.plugin import Plugin

DEFAULTS_LIST_MODULE = "hydra._internal.defaults_list"  # in a traceback: the error arose while groups were composed


def args_parser() -> ArgumentParser:
    """The parser of Hydra's own flags: to tell overrides from flags as Hydra does."""
    from hydra._internal.utils import get_args_parser

    return get_args_parser()


def convert_value(value: Any) -> object:
    """The plain value of a parsed override: Hydra has it publicly for a whole override only, not for a choice of a sweep."""
    from hydra.core.override_parser.types import Override

    return Override._convert_value(value)


def register_plugins(name: str, module: types.ModuleType, plugins: "Sequence[type[Plugin]]") -> None:
    """Register plugins of `module`, which gets the name ``hydra_plugins.NAME`` too: Hydra takes them by such a name only."""
    from hydra.core.plugins import Plugins

    try:
        package = importlib.import_module("hydra_plugins")
    except ImportError:  # no other plugin is installed
        package = sys.modules["hydra_plugins"] = types.ModuleType("hydra_plugins")
        package.__path__ = []
    sys.modules[f"hydra_plugins.{name}"] = module
    setattr(package, name, module)
    for plugin in plugins:
        plugin.__module__ = f"hydra_plugins.{name}"
        Plugins.instance().register(plugin)
