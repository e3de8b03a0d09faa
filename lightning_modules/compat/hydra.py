"""What we need of Hydra beyond its public interface."""

from argparse import ArgumentParser
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydra._internal.callbacks import Callbacks

DEFAULTS_LIST_MODULE = "hydra._internal.defaults_list"  # in a traceback: the error arose while groups were composed


def args_parser() -> ArgumentParser:
    """The parser of Hydra's own flags: to tell overrides from flags as Hydra does."""
    from hydra._internal.utils import get_args_parser

    return get_args_parser()


def no_callbacks() -> "Callbacks":
    """An empty set of callbacks: a HydraContext needs one, and only Hydra's main function makes it."""
    from hydra._internal.callbacks import Callbacks

    return Callbacks()


def convert_value(value: Any) -> Any:
    """The plain value of a parsed override: Hydra has it publicly for a whole override only, not for a choice of a sweep."""
    from hydra.core.override_parser.types import Override

    return Override._convert_value(value)
