"""Which `_target_`s a config that was read from a store or a file may name: components of a run, and nothing else."""

import inspect
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf

from lightning_modules.config.errors import UserError
from lightning_modules.config.moved_names import COMPONENT_MODULES, current_name
from lightning_modules.config.plain import raw_value, to_plain
from lightning_modules.config.project import package_names
from lightning_modules.config.signature import locate

# Where libraries define components: their other modules start processes, run code that they are given as text, or
# download files.
LIBRARIES = (
    *(f"torch.{name}" for name in ("nn", "optim", "ao.nn")),
    *(f"torchvision.{name}" for name in ("models", "ops", "transforms")),
    *(f"torchmetrics.{name}" for name in (
        "aggregation", "classification", "clustering", "collections", "detection", "metric", "nominal", "regression",
        "retrieval", "segmentation", "wrappers",
    )),
    *(f"{package}.{name}" for package in ("pytorch_lightning", "lightning.pytorch")
      for name in ("callbacks", "core", "demos", "loggers", "profilers", "strategies", "trainer")),
    *(f"timm.{name}" for name in ("layers", "loss", "models", "optim")),
    *(f"transformers.{name}" for name in ("modeling_utils", "models", "optimization")),
)  # fmt: skip
_PACKAGES = {name.split(".")[0] for name in (*COMPONENT_MODULES, *LIBRARIES)}
_REGISTERED: list[object] = []

Component = TypeVar("Component", bound=Callable[..., object])


def component(factory: Component) -> Component:
    """Register a function that a config may call, or a class whose subclasses it may build.

    Classes derived from `component_bases` need no registration.
    """
    _REGISTERED.append(factory)
    return factory


def component_bases() -> tuple[type, ...]:
    """The types of torch and Lightning that every component which is a class derives from."""
    import pytorch_lightning as pl
    import torch
    from pytorch_lightning.loggers.logger import Logger
    from pytorch_lightning.profilers import Profiler
    from pytorch_lightning.strategies import Strategy

    return (
        torch.nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, pl.Callback, Strategy, Profiler,
        pl.LightningDataModule, pl.Trainer, Logger,
    )  # fmt: skip


def is_component(found: object) -> bool:
    """Whether a config that was read from a store or a file may call this object, wherever it was found."""
    home = getattr(found, "__module__", None) or ""
    if _within(home, _trusted_packages()):
        return callable(found)
    if any(found is factory for factory in _REGISTERED):
        return True
    if (
        not inspect.isclass(found)
        or found.__name__.startswith("_")
        or not _within(home, (*COMPONENT_MODULES, *LIBRARIES))
    ):
        return False
    import torch

    whole = any(base.__name__ in ("PreTrainedModel", "Optimizer") for base in found.__mro__)
    if home.startswith("transformers.") and not whole:
        return False  # parts of models load whatever file a mapping as config names
    registered = tuple(factory for factory in _REGISTERED if inspect.isclass(factory))
    holds_code = issubclass(found, (torch.fx.GraphModule, torch.jit.ScriptModule))
    return issubclass(found, (*component_bases(), *registered)) and not holds_code


def trust_packages(cfg: DictConfig) -> None:
    """Trust what ``trust=[…]`` of a config names, in this process and those that it starts.

    For a config that the user has composed, never for one that was recorded or is composed of recorded words.
    """
    if cfg.get("trust") is not None:
        trusted = to_plain(OmegaConf.create({"trust": cfg.trust}))["trust"]
        os.environ["TOUCHSTONE_TRUST"] = ",".join(package_names(trusted, "trust"))


def _trusted_packages() -> tuple[str, ...]:
    """The packages that the user trusts, with all of their functions: ``TOUCHSTONE_TRUST=mine,yours``."""
    return tuple(name.strip() for name in os.environ.get("TOUCHSTONE_TRUST", "").split(",") if name.strip())


def _within(module: str, packages: Sequence[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in packages)


def components(node: object, path: str) -> Iterator[tuple[str, DictConfig]]:
    """Yield (dotted path, node) of every node that has a `_target_`."""
    if not node:  # also a node that holds None or ???, over which OmegaConf does not iterate
        return
    if isinstance(node, DictConfig):
        if node.get("_target_"):
            yield path, node
        for key in node:
            if not OmegaConf.is_missing(node, key):
                yield from components(node[key], f"{path}.{key!s}" if path else str(key))
    elif isinstance(node, ListConfig):
        for i, item in enumerate(node):
            yield from components(item, f"{path}[{i}]")


def refuse_untrusted(cfg: object, where: str) -> None:
    """Raise UserError unless a config holds plain values and components only; nothing of it is called or resolved.

    Args:
        cfg: as it was read from a store or a file: whatever was recorded is resolved already.
        where: the run or file, for the message.
    """
    for path, value in _interpolations(cfg, ""):
        raise UserError(f"{where}: {path}={value} is an interpolation; a recorded config holds plain values only")
    refuse_untrusted_targets(cfg, where)


def refuse_untrusted_targets(cfg: object, where: str) -> None:
    """Raise UserError where a `_target_` is no component; the interpolations of `cfg` are trusted.

    Former names of components are replaced by their current ones.
    """
    for path, node in components(cfg, ""):
        target = current_name(str(node["_target_"]))
        node["_target_"] = target
        if not _may_be_called(target, f"{where}: {path}._target_={target}"):
            raise UserError(
                f"{where}: {path}._target_={target} is not called: it is not a component of this package, torch, "
                "torchvision, torchmetrics, Lightning, timm or transformers. Only if you trust a package of your own that "
                "defines it, name that package in the environment, as in TOUCHSTONE_TRUST=mypackage, or in the "
                "project's pyproject.toml: [tool.touchstone] trust = ['mypackage']"
            )


def untrusted(cfg: object) -> list[str]:
    """The components of a user's config that `refuse_untrusted` would refuse, so that its run could not be loaded again."""
    return [
        f"{path}._target_={node['_target_']}: a run with it cannot be resumed, served or loaded again unless the environment "
        f"names the package: TOUCHSTONE_TRUST={str(node['_target_']).partition('.')[0]}"
        for path, node in components(cfg, "")
        if not _may_be_called(str(node["_target_"]), path)
    ]


def _may_be_called(target: str, said: str) -> bool:
    """Whether what Hydra finds under this dotted path is a component, not whether the path looks like one."""
    from hydra.utils import get_object

    if not _within(target, (*_PACKAGES, *_trusted_packages())):
        return False  # importing a module runs its code
    try:
        locate(target)
    except UserError as error:
        raise UserError(f"{said}: {error}") from error
    return is_component(get_object(target))


def _interpolations(node: object, path: str) -> Iterator[tuple[str, str]]:
    if not isinstance(node, DictConfig | ListConfig) or not node:
        return
    keys = [*node] if isinstance(node, DictConfig) else [*range(len(node))]
    for key in keys:
        where = f"{path}[{key}]" if isinstance(node, ListConfig) else f"{path}.{key!s}".lstrip(".")
        if OmegaConf.is_interpolation(node, key):
            yield where, raw_value(node, key)
        elif not OmegaConf.is_missing(node, key):
            yield from _interpolations(node[key], where)


def refuse_untrusted_overrides(words: Sequence[str], where: str) -> None:
    """Raise UserError where a recorded override calls a resolver, which may read the environment.

    `refuse_untrusted_targets` checks the config that the overrides compose.
    """
    for word in words:
        if re.search(r"\$\{.*:", word, re.DOTALL):
            raise UserError(
                f"{where}: the recorded override {word} calls a resolver and is not applied. To accept it, repeat the whole "
                "command of the sweep with sweep=NAME"
            )
