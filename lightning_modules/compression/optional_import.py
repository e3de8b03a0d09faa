"""Imports the libraries of the optional dependency group `compression` when they are needed."""

from importlib import import_module
from typing import Any

from lightning_modules.config.errors import UserError


def optional_import(module: str) -> Any:
    """Import and return a module. Raises UserError with the install command if it is missing."""
    try:
        return import_module(module)
    except ImportError as error:
        name = getattr(error, "name", None) or module
        raise UserError(
            f"{name.partition('.')[0]} is required here but not installed: pip install -e '.[compression]'"
        ) from error
