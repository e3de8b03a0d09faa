"""Import a callable by its dotted path, list its parameters, and match config values with their type hints."""

import ast
import collections.abc
import inspect
import textwrap
import types
import typing
from collections.abc import Callable, Mapping

from omegaconf import DictConfig, ListConfig

from lightning_modules.config.errors import UserError, suggest


def locate(target: str) -> Callable[..., object]:
    """Import the object at a dotted path. Raises UserError naming the part that does not exist."""
    import importlib

    parts = target.split(".")
    found: typing.Any = None
    for i in range(len(parts), 0, -1):
        name = ".".join(parts[:i])
        try:
            found = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and not name.startswith(error.name):
                raise UserError(
                    f"it needs the package '{error.name}', which is not installed: pip install {error.name}"
                ) from error
            continue
        for depth, part in enumerate(parts[i:], start=i):
            if not hasattr(found, part):
                names = [n for n in dir(found) if not n.startswith("_")]
                hint = suggest(part, names)
                hint = hint if len(hint) < 300 else "see its documentation for the valid names"
                raise UserError(f"'{'.'.join(parts[:depth])}' has no '{part}'; {hint}")
            found = getattr(found, part)
        return found
    raise UserError(f"no module named '{parts[0]}'")


def require_lightning_type(part: object, kind: type, where: str) -> None:
    """Raise UserError unless `part` is a `kind` of Lightning; name both namespaces if it is one of the other."""
    if isinstance(part, kind):
        return
    others = [base.__module__ for base in type(part).__mro__ if base.__name__ == kind.__name__]
    both = "this process has imported both lightning and pytorch_lightning; import lightning_modules first"
    hint = f" of {others[0]}, and runs use {kind.__module__}: {both}" if others else ""
    raise UserError(f"{where}: expected a {kind.__name__}, got a {type(part).__name__}{hint}")


def parameters_of(function: Callable[..., object]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Keyword parameters of a callable, including those its ``**kwargs`` pass to the parent; and whether it accepts any other."""
    found: dict[str, inspect.Parameter] = {}
    passed: set[str] = set()  # by a constructor to its parent
    for owner in function.__mro__ if inspect.isclass(function) else [function]:
        init = owner.__dict__.get("__init__") if inspect.isclass(owner) else owner
        if init is None:
            continue
        try:
            parameters = list(inspect.signature(init).parameters.values())
        except (TypeError, ValueError):
            return found, True
        if inspect.isclass(owner):
            parameters = parameters[1:]
        for p in parameters:
            if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in passed:
                found.setdefault(p.name, p)
        rest = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)
        if rest is None:
            return found, False
        if (keywords := _keywords_of_parent_call(init, rest)) is None:
            break
        passed |= keywords
    return found, True


def _keywords_of_parent_call(init: Callable[..., object], rest: str) -> set[str] | None:
    """The other keywords where a constructor calls ``super().__init__(…, **rest)``, so that the parent defines the valid ones."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(init)))
    except (OSError, TypeError, SyntaxError):
        return None
    calls = (call for call in ast.walk(tree) if isinstance(call, ast.Call))
    for call in calls:
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if ast.unparse(call.func) == "super().__init__" and given.get(None) == rest:
            return {name for name in given if name}
    return None


def hints_of(function: object) -> dict[str, object]:
    """Type hints of a callable's parameters, including those of parent classes."""
    hints: dict[str, object] = {}
    for owner in reversed(function.__mro__) if inspect.isclass(function) else [function]:
        init = owner.__dict__.get("__init__") if inspect.isclass(owner) else owner
        try:
            hints |= typing.get_type_hints(init, include_extras=True) if init is not None else {}
        except Exception:  # an annotation that cannot be evaluated is not checked
            continue
    return hints


def matches_type(value: object, hint: object) -> bool:
    """Whether a config value matches a type hint; hints that cannot be checked match everything."""
    if isinstance(value, DictConfig | Mapping) or hint is typing.Any:
        return True
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return matches_type(value, typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        return any(matches_type(value, option) for option in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    kind = origin or hint
    if value is None:
        return not inspect.isclass(kind) or kind in (type(None), object)
    if isinstance(value, ListConfig | list | tuple):
        return kind not in (int, float, bool, str, type(None), dict, Mapping)
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    if kind in (bool, str, type(None)):
        return isinstance(value, kind)
    if kind in (list, tuple, dict):
        return False
    from pathlib import PurePath

    if inspect.isclass(kind) and issubclass(kind, PurePath):
        return isinstance(value, str)
    name = getattr(kind, "__name__", "")
    return not (name in ("Tensor", "Sequence", "Mapping", "Iterable") and isinstance(value, str | int | float | bool))


def describe_type(hint: object) -> str:
    """A type hint in words: ``an integer or null``, ``'min' or 'max'``."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return describe_type(typing.get_args(hint)[0])
    if origin is typing.Literal:
        names = [f"'{option}'" if isinstance(option, str) else str(option) for option in typing.get_args(hint)]
    elif origin in (typing.Union, types.UnionType):
        names = [describe_type(option) for option in typing.get_args(hint)]
    else:
        names = [_TYPE_NAMES.get(origin or hint) or str(getattr(hint, "__name__", hint))]
    return " or ".join(dict.fromkeys(names))


_TYPE_NAMES: dict[object, str] = {
    type(None): "null", int: "an integer", float: "a number", bool: "true or false", str: "a string", dict: "a mapping",
    list: "a list", tuple: "a list", collections.abc.Sequence: "a list",
}  # fmt: skip
