"""Which config groups a task uses: a task is any LightningModule, and gets only the groups that its constructor names."""

from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from lightning_modules.config.errors import UserError
from lightning_modules.config.signature import locate, parameters_of

OPTIONAL_GROUPS = ("model", "optimizer", "scheduler")  # passed to a task whose constructor has an argument of that name


def task_class(cfg: DictConfig) -> Any:
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
    """Set to null what the task does not use: groups that it has no argument for, and callbacks without a metric to monitor.

    Raises UserError if the command line sets one of them.
    """
    task = task_class(cfg)
    if task is None:
        return
    names, _ = parameters_of(task)
    target = cfg.task.get("object_class") or cfg.task["_target_"]  # of an object: given_object.py
    for group in OPTIONAL_GROUPS:
        if group in names or not cfg.get(group):
            continue
        if given := _set_by_user(cfg, group):
            raise UserError(f"{given}: {target} has no argument '{group}'; remove this override")
        _set_null(cfg, group)
    metric = OmegaConf.select(cfg, "task.monitor.metric", throw_on_missing=False)
    if metric is None:
        _drop_monitoring_callbacks(cfg)


def _drop_monitoring_callbacks(cfg: DictConfig) -> None:
    plain: Any = OmegaConf.to_container(cfg.get("callbacks") or OmegaConf.create(), resolve=False)
    for key, node in plain.items():
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
    words = (str(word) for word in cfg.get("overrides") or ())
    return next((word for word in words if word.lstrip("+~").startswith((f"{group}=", f"{group}."))), None)
