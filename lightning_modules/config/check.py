"""Check a composed config against the signatures of its components, and report all mistakes together.

Longer than most: rules, and a function for each kind of mistake.
"""

from typing import Annotated, Literal

from annotated_types import Ge
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_modules.config.bounds import Count, NonNegative, out_of_bounds
from lightning_modules.config.command_line import GROUPS
from lightning_modules.config.errors import UserError, first_line, suggest
from lightning_modules.config.metric_direction import check_direction, higher_is_better
from lightning_modules.config.plain import raw_value
from lightning_modules.config.run_names import study_mistakes
from lightning_modules.config.signature import describe_type, hints_of, locate, matches_type, parameters_of
from lightning_modules.config.task_groups import OPTIONAL_GROUPS, is_supervised, required_groups
from lightning_modules.config.trust import components

# Arguments that the run passes to a component itself, in addition to those of its config.
INJECTED_ARGS: dict[str, set[str]] = {
    "optimizer": {"params"},
    "scheduler": {"optimizer", "total_steps", "steps_per_epoch"},
    "model": {"input_shape", "num_outputs"},
    "task": {
        "model", "loss", "preprocess", "augmentation", "tta", "optimizer", "scheduler", "num_outputs", "class_counts",
        "class_names", "seed", "batch_size", "steps_per_call", "log_every_n_steps", "decay_norms_and_biases",
    },
    "trainer": {"strategy", "callbacks", "logger"},
    "loggers": {"save_dir"},
}  # fmt: skip
# Keys of a component's node that the run reads and does not pass on.
RUN_KEYS = {
    "task": {"monitor"}, "data": {"data_files", "data_hash"}, "scheduler": {"interval", "frequency", "monitor"},
}  # fmt: skip
# Arguments of Lightning's Trainer that the run sets itself, and what to use instead.
_TRAINER_ALTERNATIVES = {
    "fast_dev_run": "its metrics would not be recorded; use debug=fast",
    "barebones": "it records nothing; use tracking=none callbacks.progress=null callbacks.summary=null",
    "strategy": "use strategy=… or strategy._target_=…",
    "logger": "use loggers=… for loggers beside the record, tracking=none for no record",
    "callbacks": "use callbacks.NAME._target_=…",
    "default_root_dir": "the files are in the run's folder; tracking.uri sets the store",
    "enable_checkpointing": "use callbacks.best=null callbacks.last=null",
    "enable_progress_bar": "use callbacks.progress=null",
    "enable_model_summary": "use callbacks.summary=null",
}
REQUIRED = ("data", "task", "trainer")  # each with a `_target_`; a task of ours also requires its `required_groups`
# Values outside components, with their types and bounds.
SCALAR_RULES: dict[str, object] = {
    "seed": Annotated[int, Ge(0)],
    "name": str | int | float | None,
    "study": str | int | float | None,
    "resume.run": str | int | None,
    "resume.allow": list[str],
    "init_from": str | int | None,
    "decay_norms_and_biases": bool,
    "steps_per_call": Count | Literal["auto"],
    "compile": bool,
    "channels_last": bool,
    "cuda_graphs": bool,
    "matmul_precision": Literal["highest", "high", "medium"] | None,
    "cpu_threads": Count | None,
    "trainer.accumulate_grad_batches": Count,
    "tracking.enabled": bool,
    "tracking.uri": str | None,
    "tracking.experiment": str,
    "tracking.flush_points": Count,
    "tracking.flush_seconds": NonNegative,
    "tracking.system_metrics_s": NonNegative | None,
    "tracking.pictures": bool,
    "tracking.min_free_mb": NonNegative,
    "task.monitor.metric": str | None,
    "task.monitor.mode": Literal["min", "max"] | None,
}
TOP_LEVEL_KEYS = {
    *GROUPS, *(key for key in SCALAR_RULES if "." not in key), "resume", "search", "sweep", "claim", "choices", "overrides",
}  # fmt: skip
_HYDRA_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


def check_config(cfg: DictConfig) -> None:
    """Raise one UserError that lists all unknown keys, missing or mistyped arguments and unimportable targets."""
    mistakes = [
        f"{key!s}: unknown config key; {suggest(str(key), TOP_LEVEL_KEYS - {'choices', 'overrides'})}"
        for key in cfg
        if str(key) not in TOP_LEVEL_KEYS
    ]
    mistakes += _interpolation_errors(cfg, "")
    if not mistakes:  # the following checks read every value
        mistakes += _scalar_mistakes(cfg) + _missing_groups(cfg)
        mistakes += study_mistakes(cfg.get("study"))
        monitor = OmegaConf.select(cfg, "task.monitor")
        if isinstance(monitor, DictConfig) and {"metric", "mode"} <= set(monitor):
            mistakes += _check_monitor_mode("task.monitor", monitor.metric, monitor.mode)
        own = is_supervised(cfg)
        for path, node in components(cfg, ""):
            mistakes += _node_mistakes(path, node, own)
    mistakes = [mistake for mistake in mistakes if "${monitor_mode:}" not in mistake]  # reported by _wrong_direction
    if mistakes:
        count = f"{len(mistakes)} mistakes" if len(mistakes) > 1 else "A mistake"
        raise UserError(f"{count} in the config:\n" + "\n".join(f"  {mistake}" for mistake in mistakes))


def _interpolation_errors(node: DictConfig | ListConfig, path: str) -> list[str]:
    """Missing values (`???`), interpolations that cannot be resolved, and integers of more than 64 bits."""
    mistakes: list[str] = []
    keys = [*node] if isinstance(node, DictConfig) else [*range(len(node))]
    for key in keys:
        if key == "overrides" and not path:
            continue  # the command line; the values it sets are checked at their own keys
        where = f"{path}[{key}]" if isinstance(node, ListConfig) else f"{path}.{key}".lstrip(".")
        if OmegaConf.is_missing(node, key):
            mistakes.append(f"{where}: missing value; set it with {where}=…")
            continue
        try:
            value = node[key]
        except OmegaConfBaseException as error:
            mistakes.append(f"{where}={raw_value(node, key)}: {first_line(error)}")
            continue
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            mistakes.append(f"{where}={value}: expected a 64-bit integer, between -2**63 and 2**63 - 1")
        if isinstance(value, DictConfig | ListConfig) and not OmegaConf.is_interpolation(node, key):
            mistakes += _interpolation_errors(value, where)
    return mistakes


def _scalar_mistakes(cfg: DictConfig) -> list[str]:
    mistakes = []
    for place, known in (("tracking", "tracking."), ("task.monitor", "task.monitor."), ("resume", "resume.")):
        names = {key.removeprefix(known) for key in SCALAR_RULES if key.startswith(known)}
        given = OmegaConf.select(cfg, place)
        mistakes += [
            f"{place}.{key!s}: unknown key; {suggest(str(key), names)}"
            for key in (given if isinstance(given, DictConfig) else ())
            if str(key) not in names
        ]
    for path, hint in SCALAR_RULES.items():
        parent, _, leaf = path.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if not isinstance(node, DictConfig) or leaf not in node:
            continue
        empty = isinstance(node[leaf], str) and not node[leaf].strip()
        mistakes += [empty_value(path)] if empty else _value_mistakes(path, node, leaf, hint)
    return mistakes


def _value_mistakes(path: str, node: DictConfig, key: str, hint: object) -> list[str]:
    """The mistake in the value at `key`, if it has not the type and the bounds of `hint`."""
    value = node[key]
    if not matches_type(value, hint):
        return [f"{path}={raw_value(node, key)}: expected {describe_type(hint)}, got {_given(value, hint)}"]
    mistake = out_of_bounds(value, hint)
    return [f"{path}={raw_value(node, key)}: {mistake}"] if mistake else []


def empty_value(key: str) -> str:
    """The message for a name or an id that is empty."""
    return f"{key.removesuffix('.run')}=: empty value; give a name or an id, or omit the key"


def _missing_groups(cfg: DictConfig) -> list[str]:
    """Required keys and groups that were deleted or set to null."""
    mistakes = []
    for path in (*REQUIRED, *required_groups(cfg)):
        node = OmegaConf.select(cfg, path)
        if not isinstance(node, DictConfig):
            given = "null" if node is None else str(node)
            mistakes.append(f"{path}={given}: required: expected a config node with '_target_'")
        elif not node.get("_target_"):
            mistakes.append(f"{path}: '_target_' is missing: give the class or function to call, e.g. torch.optim.SGD")
    for path in ("callbacks", "scheduler", "strategy", "tracking", *(k for k in SCALAR_RULES if "." not in k)):
        if path not in cfg:
            mistakes.append(f"{path}: required key is missing (it was deleted)")
    if isinstance(cfg.get("tracking"), DictConfig) and "enabled" not in cfg.tracking:
        mistakes.append("tracking.enabled: required key is missing (it was deleted)")
    mistakes += [
        f"{group}.{name!s}: '_target_' is missing: give its class"
        for group in ("callbacks", "loggers")
        for name, node in (cfg.get(group) or {}).items()
        if node and not (isinstance(node, DictConfig) and node.get("_target_"))
    ]
    return mistakes


def _node_mistakes(path: str, node: DictConfig, own: bool) -> list[str]:
    target = str(node["_target_"])
    try:
        function = locate(target)
    except UserError as error:
        return [f"{path}._target_={target}: {error}"]
    if not callable(function):
        return [f"{path}._target_={target}: expected a class or function, got a {type(function).__name__}"]
    accepts, anything = parameters_of(function)
    given = {str(key) for key in node} - _HYDRA_KEYS
    known = INJECTED_ARGS.get("loggers" if path.startswith("loggers.") else path, set())
    supplied = known if own or path != "task" else set(OPTIONAL_GROUPS)
    options = accepts.keys() - (supplied - given)
    mistakes = [
        f"{path}.{key!s}={raw_value(node, key)}: {target} has no argument '{key}'; {suggest(key, options)}"
        for key in sorted(given - accepts.keys())
        if not anything and key not in RUN_KEYS.get(path, ())
    ]
    if path == "trainer":
        mistakes += [
            f"trainer.{key}={raw_value(node, key)}: {_TRAINER_ALTERNATIVES[key]}"
            for key in sorted(given & _TRAINER_ALTERNATIVES.keys())
        ]
    needed = [name for name, p in accepts.items() if p.default is p.empty and name not in given | supplied]
    if needed and "_args_" not in node and not (node.get("_partial_") and path not in INJECTED_ARGS):
        mistakes += [f"{path}.{name}: missing argument of {target}" for name in needed]
    hints = hints_of(function)
    for key in sorted(given & accepts.keys() & hints.keys()):
        if node[key] is not None or not (key in supplied or accepts[key].default is None):
            mistakes += _value_mistakes(f"{path}.{key}", node, key, hints[key])
    if {"monitor", "mode"} <= accepts.keys():
        metric = node.get("monitor", accepts["monitor"].default)
        unset = accepts["mode"].default if higher_is_better(str(metric)) is not None else None
        mistakes += _check_monitor_mode(path, metric, node.get("mode", unset))
    return mistakes


def _check_monitor_mode(path: str, metric: object, mode: object) -> list[str]:
    """Whether `mode` is the wrong direction for the metric that a component monitors."""
    if not isinstance(metric, str) or mode not in ("min", "max", None):
        return []  # the type check reports these
    wrong = check_direction(f"{path}.mode", metric, mode)
    return [wrong] if wrong else []


def _given(value: object, hint: object) -> str:
    """The value itself, if one of several strings is expected; else its type."""
    return repr(value) if isinstance(value, str) and "'" in describe_type(hint) else _type_name(value)


def _type_name(value: object) -> str:
    kinds = {str: "a string", int: "an integer", float: "a number", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a list" if isinstance(value, ListConfig) else type(value).__name__)
