"""Touchstone: a research harness. One room per config group; importing this package imports nothing heavy."""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lightning_modules.compat.lightning_names import unify_lightning

if TYPE_CHECKING:
    from lightning_modules.api import compare, compose, load, recorded, run, runs, sync

unify_lightning()
__all__ = ["compare", "compose", "load", "recorded", "run", "runs", "sync"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("lightning_modules.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class CallableModule(ModuleType):
    """A module with the name of one of these functions, which it is as well."""

    def __call__(self, *args: Any, **kwargs: Any) -> object:
        return __getattr__(self.__name__.rpartition(".")[2])(*args, **kwargs)
