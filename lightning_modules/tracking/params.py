"""The params of a run: the leaves of its config that describe the experiment. Its config.yaml has all of them.

MLflow's page "compare runs" opens with the first differing params by name, so that others would hide those.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from lightning_modules.config.command_line import model_name
from lightning_modules.config.flatten import flatten
from lightning_modules.tracking.secrets import mask_secrets

PARAM_LIMIT = 6000  # length limit of an MLflow param
BOOKKEEPING = re.compile(  # how a run is recorded and displayed
    r"^(name|resume|sweep|hydra|tracking|loggers|choices|callbacks\.(progress|summary|learning_rate|last|test_predictions))(\.|$)"
)

_MODEL_PARAMS = (
    "data",
    "augmentation",
    "model",
    "compression",
    "optimizer",
    "optimizer.lr",
    "trainer.max_epochs",
    "seed",
)


def experiment_params(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The params of a resolved config: no bookkeeping, and no ``data.seed`` that is only a copy of ``seed``."""
    leaves = {key.removeprefix("choices."): value for key, value in flatten(config).items() if key}
    given = any(override.lstrip("+").startswith("data.seed=") for override in overrides)
    if not given and leaves.get("data.seed") == leaves.get("seed"):
        leaves.pop("data.seed", None)
    return {key: value for key, value in leaves.items() if not BOOKKEEPING.match(key)}


def describe_model(config: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Name (``data-model``) and params of a run's LoggedModel: the main settings, and those of the command line."""
    if "choices" not in config:
        return "model", {}
    overrides = config.get("overrides") or []
    given = {str(override).lstrip("+~").partition("=")[0] for override in overrides}
    params = experiment_params(mask_secrets(config), overrides)
    chosen = {key: str(value)[:PARAM_LIMIT] for key, value in params.items() if key in given or key in _MODEL_PARAMS}
    return re.sub(r"[^\w -]", "_", model_name(OmegaConf.create(dict(config)))), chosen
