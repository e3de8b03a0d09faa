"""When a trial is given up: the pruners of Optuna."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner

from lightning_modules.config.errors import suggest
from lightning_modules.sweep.search_settings import PRUNERS, option_mistakes, raise_mistakes

_CONSTRUCTORS: dict[str, Callable[..., BasePruner]] = {
    "none": NopPruner,
    "asha": SuccessiveHalvingPruner,
    "hyperband": HyperbandPruner,
    "median": MedianPruner,
}
# Optuna's "auto" is guessed from the trials that happen to have ended, and so depends on when it is asked
_DEFAULTS: dict[str, dict[str, Any]] = {"asha": {"min_resource": 1}}


def make_pruner(name: str, options: Mapping[str, Any], max_epochs: int | None = None) -> BasePruner:
    """Return the pruner `search.pruner` with `search.pruner_options`.

    Its steps are ended epochs: 1 after the first.

    Args:
        max_epochs: of a trial that is not pruned; Hyperband's `max_resource` where the options do not give it.
    Raises:
        UserError: no such pruner or option.
    """
    if name not in PRUNERS:
        raise_mistakes("in the search", [f"search.pruner: there is no '{name}'; {suggest(name, PRUNERS)}"])
    raise_mistakes("in the search", option_mistakes("search.pruner_options", _CONSTRUCTORS[name], options))
    given = _DEFAULTS.get(name, {}) | dict(options)
    if name == "hyperband" and max_epochs is not None and max_epochs > 0:
        given.setdefault("max_resource", max_epochs)
    try:
        return _CONSTRUCTORS[name](**given)
    except ValueError as error:
        raise_mistakes("in the search", [f"search.pruner_options: {error}"])
        raise
