"""Makes trained models smaller and faster: recipes of stages, the compressed checkpoint, and the cost report."""

from importlib import import_module
from types import ModuleType

from lightning_modules.config.errors import UserError


def optional_import(module: str) -> ModuleType:
    """Import a module of the optional dependencies `compression`. Raises UserError with the install command."""
    try:
        return import_module(module)
    except ImportError as error:
        name = getattr(error, "name", None) or module
        raise UserError(
            f"{name.partition('.')[0]} is required here but not installed: pip install -e '.[compression]'"
        ) from error
