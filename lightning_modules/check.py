"""Every component's signature is bound before anything is built, and all mistakes are told at once."""

import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from lightning_modules.errors import UserError, nearest

# What the run itself passes to a component, beside what its config says.
SUPPLIED: dict[str, set[str]] = {
    "optimizer": {"params"},
    "scheduler": {"optimizer", "total_steps", "steps_per_epoch"},
    "model": {"input_shape", "num_outputs"},
    "task": {
        "model", "loss", "preprocess", "augmentation", "optimizer", "scheduler", "num_outputs", "class_counts",
        "class_names", "seed", "batch_size", "steps_per_call", "log_every_n_steps", "decay_norms_and_biases",
    },
    "trainer": {"strategy", "callbacks", "logger"},
}  # fmt: skip
# What the run itself reads from a component's node.
OWN = {"task": {"monitor"}}
TOP_LEVEL = {
    "data", "augmentation", "model", "task", "optimizer", "scheduler", "trainer", "strategy", "compression",
    "callbacks", "tracking", "debug", "experiment", "claim", "sweep", "search",
    "seed", "name", "resume", "init_from", "decay_norms_and_biases", "steps_per_call", "compile", "cpu_threads",
    "choices", "overrides",
}  # fmt: skip


def check_config(cfg: DictConfig) -> None:
    """Raise one UserError that lists all unknown keys, missing or mistyped arguments and unimportable targets."""
    mistakes = [
        f"{key}: unknown key of the config; {nearest(str(key), TOP_LEVEL)}"
        for key in cfg
        if str(key) not in TOP_LEVEL
    ]
    missing = sorted(OmegaConf.missing_keys(cfg))
    mistakes += [f"{key}: a value is needed, as in {key}=…" for key in missing]
    for path, node in _components(cfg, ""):
        mistakes += _mistakes_of(path, node)
    if mistakes:
        count = f"{len(mistakes)} mistakes" if len(mistakes) > 1 else "A mistake"
        raise UserError(f"{count} in the config:\n" + "\n".join(f"  {mistake}" for mistake in mistakes))


def _components(node: Any, path: str) -> Iterator[tuple[str, DictConfig]]:
    """Yield (dotted path, node) of every node that has a `_target_`, or that should have one."""
    if isinstance(node, DictConfig):
        if node._is_none() or node._is_missing():
            return
        rooms = {"data", "model", "task", "optimizer", "trainer", "task.loss"}
        if "_target_" in node or path in rooms:
            yield path, node
        for key in node:
            if not OmegaConf.is_missing(node, key):
                yield from _components(node[key], f"{path}.{key}" if path else str(key))
    elif isinstance(node, ListConfig):
        for i, item in enumerate(node):
            yield from _components(item, f"{path}[{i}]")


def _mistakes_of(path: str, node: DictConfig) -> list[str]:
    target = node.get("_target_")
    if not target:
        return [f"{path}: '_target_' is missing: write the class or function to call, as in torch.optim.SGD"]
    try:
        function = locate(str(target))
    except UserError as error:
        return [f"{path}._target_={target}: {error}"]
    accepts, anything = parameters_of(function)
    given = {
        str(key)
        for key in node
        if str(key) not in ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")
    }
    mistakes = [
        f"{path}.{key}={_shown(node, key)}: {_name(function)} takes no '{key}'; {nearest(key, accepts)}"
        for key in sorted(given - accepts.keys())
        if not anything and key not in OWN.get(path, ())
    ]
    supplied = SUPPLIED.get(path, set())
    needed = [name for name, p in accepts.items() if p.default is p.empty and name not in given | supplied]
    if needed and "_args_" not in node and not (node.get("_partial_") and path not in SUPPLIED):
        mistakes += [f"{path}.{name}: {_name(function)} needs a value for '{name}'" for name in needed]
    hints = _hints(function)
    for key in sorted(given & accepts.keys()):
        value = node[key]
        if value is None and key in supplied:
            continue
        if key in hints and not _fits(value, hints[key]):
            mistakes.append(
                f"{path}.{key}={_shown(node, key)}: {_spoken(hints[key])} is wanted, not {type(value).__name__}"
            )
    return mistakes


def refuse_untrusted(cfg: Any, where: str) -> None:
    """Raise UserError unless all targets of a config that was read from a store are parts of a run.

    A part is a function or class of this package, or a class that torch, Lightning or torchmetrics derive from
    Module, Optimizer, LRScheduler, Callback, Strategy, Profiler, LightningDataModule or Trainer.
    """
    import pytorch_lightning as pl
    import torch
    from pytorch_lightning.profilers import Profiler
    from pytorch_lightning.strategies import Strategy

    parts = (
        torch.nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, pl.Callback, Strategy, Profiler,
        pl.LightningDataModule, pl.Trainer,
    )  # fmt: skip
    for path, node in _components(cfg, ""):
        target = str(node.get("_target_") or "")
        if not target:
            continue
        ours = target.startswith("lightning_modules.")
        found = locate(target) if ours or target.split(".")[0] in _TRUSTED else None
        mine = ours and getattr(found, "__module__", "").startswith("lightning_modules.")
        if not (mine or (inspect.isclass(found) and issubclass(found, parts))):
            raise UserError(
                f"{where}: {path}._target_={target} is no part of a model or a run, and is not called"
            )


_TRUSTED = ("torch", "torchvision", "pytorch_lightning", "lightning", "torchmetrics", "timm")


def locate(target: str) -> Any:
    """Import the object of a dotted path. Raises UserError that names the part that is not there."""
    import importlib

    parts = target.split(".")
    found: Any = None
    for i in range(len(parts), 0, -1):
        name = ".".join(parts[:i])
        try:
            found = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and not name.startswith(error.name):
                raise UserError(
                    f"importing it needs the package '{error.name}': pip install {error.name}"
                ) from error
            continue
        for depth, part in enumerate(parts[i:], start=i):
            if not hasattr(found, part):
                names = [n for n in dir(found) if not n.startswith("_")]
                raise UserError(f"'{'.'.join(parts[:depth])}' has no '{part}'; {_near_or_short(part, names)}")
            found = getattr(found, part)
        return found
    raise UserError(f"there is no module '{parts[0]}'")


def parameters_of(function: Any) -> tuple[dict[str, inspect.Parameter], bool]:
    """Keyword parameters of a callable, through ``**kwargs`` to the parent classes; and whether it takes any at all."""
    found: dict[str, inspect.Parameter] = {}
    chain = function.__mro__ if inspect.isclass(function) else [function]
    for owner in chain:
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
            if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD):
                # what a parent needs, the class itself may supply
                found.setdefault(p.name, p if owner is chain[0] or p.default is not p.empty else p.replace(default=None))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return found, False
        if not owner.__module__.startswith("lightning_modules"):
            break  # only of our own classes is it known that the keywords go to the parent
    return found, True


def _hints(function: Any) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    for owner in reversed(function.__mro__) if inspect.isclass(function) else [function]:
        init = owner.__dict__.get("__init__") if inspect.isclass(owner) else owner
        try:
            hints |= typing.get_type_hints(init) if init is not None else {}
        except Exception:  # an annotation that cannot be evaluated says nothing about the value
            continue
    return hints


_PLAIN = {int, float, bool, str, type(None), list, tuple, dict}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a config value can be meant for an annotation; what cannot be judged fits."""
    if isinstance(value, DictConfig | Mapping) or hint is Any:
        return True
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _fits(value, typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    kind = origin or hint
    if isinstance(value, ListConfig | list | tuple):
        return kind not in (int, float, bool, str, type(None))
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind in (str, type(None)):
        return isinstance(value, kind)
    if kind in (list, tuple, dict):
        return False
    from pathlib import PurePath

    if inspect.isclass(kind) and issubclass(kind, PurePath):
        return isinstance(value, str)
    name = getattr(kind, "__name__", "")
    return not (
        name in ("Tensor", "Sequence", "Mapping", "Iterable") and isinstance(value, str | int | float | bool)
    )


def _near_or_short(word: str, names: list[str]) -> str:
    said = nearest(word, names)
    return said if len(said) < 300 else "look for the right name in its documentation"


def _name(function: Any) -> str:
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', function)}"


def _shown(node: DictConfig, key: str) -> str:
    return str(OmegaConf.to_container(node, resolve=False)[key])  # type: ignore[index, call-overload]


def _spoken(hint: Any) -> str:
    options = (
        typing.get_args(hint)
        if typing.get_origin(hint) in (typing.Union, types.UnionType, typing.Literal)
        else (hint,)
    )
    return " or ".join("null" if o is type(None) else getattr(o, "__name__", str(o)) for o in options)
