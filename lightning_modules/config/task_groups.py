"""Which config groups a task uses: a task is any LightningModule, and gets only the groups that its constructor names."""

import re
from collections.abc import Callable

from omegaconf import DictConfig, OmegaConf, open_dict

from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import to_plain
from lightning_modules.config.signature import locate, parameters_of

OPTIONAL_GROUPS = ("model", "optimizer", "scheduler")  # passed to a task whose constructor has an argument of that name


def task_class(cfg: DictConfig) -> Callable[..., object] | None:
    """What ``task._target_`` names; None if it cannot be imported, which `check_config` reports."""
    target = OmegaConf.select(cfg, "task._target_", throw_on_missing=False)
    try:
        return locate(str(target)) if target else None
    except UserError:
        return None


def required_groups(cfg: DictConfig) -> tuple[str, ...]:
    """The keys that a run of this task cannot do without, each with a ``_target_``."""
    return getattr(task_class(cfg), "required_groups", ())


def is_supervised(cfg: DictConfig) -> bool:
    """Whether the task is one of ours, which gets its network, loss and optimizer from the config."""
    return bool(required_groups(cfg))


def drop_unused_groups(cfg: DictConfig) -> None:
    """Set to null what the task does not use: groups that it has no argument for, or whose argument `task` sets itself,
    and callbacks without a metric to monitor.

    Raises UserError if the command line sets one of them.
    """
    if cfg.get("task") and cfg.task.get("monitor") is None:
        with open_dict(cfg):
            cfg.task.monitor = {"metric": None, "mode": None}
    task = task_class(cfg)
    if task is None:
        return
    names, _ = parameters_of(task)
    target = cfg.task.get("object_class") or cfg.task["_target_"]  # of an object: given_objects.py
    for group in OPTIONAL_GROUPS:
        if (group in names and group not in cfg.task) or not cfg.get(group):
            _drop_options_of_former_target(cfg, group)
            continue
        if given := _set_by_user(cfg, group):
            why = f"task.{group} is set, too" if group in cfg.task else f"{target} has no argument '{group}'"
            raise UserError(f"{given}: {why}; remove this override")
        _set_null(cfg, group)
    metric = OmegaConf.select(cfg, "task.monitor.metric", throw_on_missing=False)
    if metric is None:
        _drop_monitoring_callbacks(cfg)
    elif str(OmegaConf.select(cfg, "scheduler._target_", throw_on_resolution_failure=False)).endswith(
        "ReduceLROnPlateau"
    ):
        with open_dict(cfg):
            cfg.scheduler = {"monitor": metric, "mode": "${monitor_mode:}", **cfg.scheduler}


def _drop_options_of_former_target(cfg: DictConfig, group: str) -> None:
    """Where the command line replaces the ``_target_`` of a group, leave out arguments of the option that it does not have."""
    given = " ".join(word for word in _words(cfg) if word.startswith((f"{group}.", f"{group}={{")))
    if "_target_" not in given or not (target := (cfg.get(group) or {}).get("_target_")):
        return
    try:
        accepted, anything = parameters_of(locate(str(target)))
    except UserError:
        return  # reported by `check_config`
    with open_dict(cfg):
        for key in list(cfg[group]):
            if not (anything or key in accepted or str(key).startswith("_") or re.search(rf"\b{key}\b[=:.]", given)):
                del cfg[group][key]


def _drop_monitoring_callbacks(cfg: DictConfig) -> None:
    for key, node in to_plain(cfg.get("callbacks") or {}, resolve=False).items():
        if isinstance(node, dict) and "task.monitor" in str(node.get("monitor")):
            given = _set_by_user(cfg, "callbacks")
            if given and key != "best":
                raise UserError(
                    f"{given}: callbacks.{key} needs a metric that the task logs: task.monitor.metric=NAME "
                    "task.monitor.mode=min (or max)"
                )
            with open_dict(cfg):
                cfg.callbacks[key] = None


def _set_null(cfg: DictConfig, group: str) -> None:
    with open_dict(cfg):
        cfg[group] = None
        cfg.choices.pop(group, None)


def _set_by_user(cfg: DictConfig, group: str) -> str | None:
    """The override of the command line that sets this group or a value of it."""
    return next((word for word in _words(cfg) if word.startswith((f"{group}=", f"{group}."))), None)


def _words(cfg: DictConfig) -> list[str]:
    """The overrides of the command line, without ``+`` and ``~``."""
    words = to_plain(OmegaConf.create({"words": cfg.get("overrides") or []}), resolve=False)["words"]
    return [str(word).lstrip("+~") for word in words]
