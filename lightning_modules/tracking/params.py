"""The params of a run: the leaves of its config that describe the experiment. Its config.yaml has all of them.

MLflow's page "compare runs" opens with the first differing params by name, so that others would hide those.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_modules.config.flatten import flatten

BOOKKEEPING = re.compile(  # how a run is recorded and displayed
    r"^(name|resume|sweep|hydra|tracking|loggers|choices|callbacks\.(progress|summary|learning_rate|last))(\.|$)"
)


def experiment_params(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The params of a resolved config: no bookkeeping, and no ``data.seed`` that is only a copy of ``seed``."""
    leaves = {key.removeprefix("choices."): value for key, value in flatten(config).items() if key}
    given = any(override.lstrip("+").startswith("data.seed=") for override in overrides)
    if not given and leaves.get("data.seed") == leaves.get("seed"):
        leaves.pop("data.seed", None)
    return {key: value for key, value in leaves.items() if not BOOKKEEPING.match(key)}
