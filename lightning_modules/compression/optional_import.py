"""The libraries of the optional group `compression`."""

from importlib import import_module
from typing import Any

from lightning_modules.config.errors import UserError


def optional_import(module: str) -> Any:
    """Import and return a library of the group. Raises UserError with the command that installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        name = getattr(error, "name", None) or module
        raise UserError(
            f"{name.partition('.')[0]} is not installed, which compression needs here: pip install -e '.[compression]'"
        ) from error
