"""Bounds of arguments, declared where the argument is: ``momentum: Annotated[float, Ge(0), Lt(1)]``.

`check_config` validates every component of a config against them before anything is built; `bounded` validates calls from
Python. Bounds are those of the package `annotated_types`; a ``Literal`` counts as a bound too.
"""

import functools
import inspect
import operator
import types
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, ParamSpec, TypeVar, get_args, get_origin

from annotated_types import BaseMetadata, Ge, Gt, Le, Lt
from omegaconf import ListConfig

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.config.signature import describe_type, hints_of, matches_type

P = ParamSpec("P")
R = TypeVar("R")

_ONE_SIDED = {Ge: "{} or more", Gt: "more than {}", Le: "at most {}", Lt: "less than {}"}

Fraction = Annotated[float, Ge(0), Le(1)]
OpenFraction = Annotated[float, Gt(0), Lt(1)]
NonNegative = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
Count = Annotated[int, Ge(1)]
Whole = Annotated[int, Ge(0)]
Seed = Annotated[int, Ge(0), Lt(2**32)]


def out_of_bounds(value: object, hint: object) -> str | None:
    """Return what is expected if `value` has the type of the annotation `hint` but violates its bounds, else None."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _violated(value, [bound for bound in arguments[1:] if isinstance(bound, BaseMetadata)])
    if origin is Literal:
        return None if value in arguments else suggest(str(value), [str(option) for option in arguments])
    if origin in (typing.Union, types.UnionType):
        options = [option for option in arguments if matches_type(value, option) or get_origin(option) is Literal]
        mistakes = [out_of_bounds(value, option) for option in options]
        return None if None in mistakes or not mistakes else mistakes[0]
    if origin in (list, tuple, Sequence) and isinstance(value, list | tuple | ListConfig):
        return next((mistake for item in value if (mistake := out_of_bounds(item, arguments[0]))), None)
    return None


def _violated(value: object, bounds: Sequence[BaseMetadata]) -> str | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None  # another type: `matches_type` reports it
    names = {kind: kind.__name__.lower() for kind in _ONE_SIDED}  # of the attribute and of the operator
    limits = {type(bound): getattr(bound, names[type(bound)]) for bound in bounds if type(bound) in names}
    if all(getattr(operator, names[kind])(value, limit) for kind, limit in limits.items()):
        return None
    if len(limits) == 1:
        ((kind, limit),) = limits.items()
        return "expected " + _ONE_SIDED[kind].format(limit)
    low = f"[{limits[Ge]}" if Ge in limits else f"({limits[Gt]}"
    high = f"{limits[Le]}]" if Le in limits else f"{limits[Lt]})"
    return f"expected a value in {low}, {high}"


def mismatch(value: object, hint: object) -> str | None:
    """Return what is expected if a plain value is out of bounds or has another type than `hint`, else None."""
    wrong = isinstance(value, str | bool | int | float | list | None) and not matches_type(value, hint)
    return out_of_bounds(value, hint) or (f"expected {describe_type(hint)}" if wrong else None)


def bounded(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function or constructor: a call raises one UserError for all plain arguments of a wrong type or value."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind_partial(*args, **kwargs).arguments
        hints = hints_of(function)
        owner = type(args[0]).__name__ if function.__name__ == "__init__" else function.__name__
        mistakes = [
            f"{owner}.{name}={value}: {mistake}"
            for name, value in given.items()
            if name in hints and (mistake := mismatch(value, hints[name]))
        ]
        if mistakes:
            raise UserError("\n".join(mistakes))
        return function(*args, **kwargs)

    return checked
