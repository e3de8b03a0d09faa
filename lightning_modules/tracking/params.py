"""The params of a run: the leaves of its config that describe the experiment. Its config.yaml has all of them.

MLflow's page "compare runs" opens with the first differing params by name, so that others would hide those.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from lightning_modules.config.command_line import model_name
from lightning_modules.config.plain import PlainDict, flatten
from lightning_modules.config.run_names import NAME_LIMIT, run_name, short_keys
from lightning_modules.tracking.secrets import mask_secrets

if TYPE_CHECKING:
    from mlflow.entities import Run

PARAM_LIMIT = 6000  # length limit of an MLflow param
BOOKKEEPING = re.compile(  # how a run is recorded and displayed
    r"^(name|study|resume|sweep|hydra|trust|tracking|loggers|choices|"
    r"callbacks\.(progress|summary|learning_rate|last|test_predictions))(\.|$)"
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


def experiment_params(config: Mapping[str, object], overrides: Sequence[str]) -> dict[str, object]:
    """The params of a resolved config: no bookkeeping but the study, and no ``data.seed`` that only copies ``seed``."""
    leaves = {key.removeprefix("choices."): value for key, value in flatten(config).items() if key}
    given = any(override.lstrip("+").startswith("data.seed=") for override in overrides)
    if not given and leaves.get("data.seed") == leaves.get("seed"):
        leaves.pop("data.seed", None)
    study = leaves.get("study") is not None
    return {k: value for k, value in leaves.items() if not BOOKKEEPING.match(k) or (k == "study" and study)}


def describe_model(config: PlainDict) -> tuple[str, dict[str, str]]:
    """Name (``data-model``) and params of a run's LoggedModel: the main settings, and those of the command line."""
    if "choices" not in config:
        return "model", {}
    overrides = config.get("overrides") or []
    given = {str(override).lstrip("+~").partition("=")[0] for override in overrides}
    params = experiment_params(mask_secrets(config), overrides)
    chosen = {key: str(value)[:PARAM_LIMIT] for key, value in params.items() if key in given or key in _MODEL_PARAMS}
    return re.sub(r"[^\w -]", "_", model_name(OmegaConf.create(dict(config)))), chosen


def default_run_name(config: PlainDict) -> str:
    """The run's name; if the user gave none, that of study and model, with the overrides: ``digits-convnet lr=1e-4 fold=0``."""
    name, overrides = str(config["name"]), [str(mask_secrets(word)) for word in config.get("overrides") or []]
    given = dict(word.lstrip("+").split("=", 1) for word in overrides if "=" in word and not word.startswith("~"))
    if "name" in given or "choices" not in config or name != model_name(OmegaConf.create(dict(config))):
        return name
    keys = [key for key in given if key not in ("data", "model") and not BOOKKEEPING.match(key)]
    study = "" if config.get("study") is None else f"{config['study']}/"
    return f"{study}{name} {run_name(given, keys)}".strip()[:NAME_LIMIT]


def differing_params(params: Sequence[Mapping[str, str]]) -> list[str]:
    """The params in which runs differ, without bookkeeping."""
    keys = {key for one in params for key in one if len({other.get(key) for other in params}) > 1}
    return sorted((key for key in keys if not BOOKKEEPING.match(key)), key=display_order)


def candidate_lines(runs: Sequence["Run"]) -> Iterator[str]:
    """A line for each of several runs that a name means: id, start, status, and the params in which they differ."""
    keys = differing_params([run.data.params for run in runs])[:4]
    names = short_keys(keys)
    for run in runs:
        start = datetime.fromtimestamp(run.info.start_time / 1000).isoformat(" ", "minutes")
        settings = " ".join(f"{names[key]}={run.data.params.get(key)}" for key in keys) or "same settings"
        yield f"  {run.info.run_id}  {start}  {run.info.status:8}  {settings}"


def display_order(key: str) -> tuple[bool, int, str]:
    """Groups before their settings, classes last."""
    return "_target_" in key, key.count("."), key
