"""One set of Lightning's classes in a process: its two distributions are the same modules under two names."""

import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_NAMES = {"lightning.pytorch": "pytorch_lightning", "lightning.fabric": "lightning_fabric"}


class _SameModules(MetaPathFinder, Loader):
    """Imports ``lightning.pytorch.x`` as ``pytorch_lightning.x``, or the other way round: `names` maps one to the other."""

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names

    def _other_name(self, name: str) -> str | None:
        return next((b + name[len(a) :] for a, b in self._names.items() if f"{name}.".startswith(f"{a}.")), None)

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        other = self._other_name(fullname)
        return ModuleSpec(fullname, self) if other and importlib.util.find_spec(other) else None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(str(self._other_name(module.__name__)))


def unify_lightning() -> None:
    """Have both names of Lightning import the same modules, those of ``pytorch_lightning`` unless the other is imported."""
    if "lightning.pytorch" not in sys.modules:
        sys.meta_path.insert(0, _SameModules(_NAMES))
    elif "pytorch_lightning" not in sys.modules:
        sys.meta_path.insert(0, _SameModules({b: a for a, b in _NAMES.items()}))
