"""Every component's signature is bound before anything is built, and all mistakes are told at once."""

from typing import Any, Literal

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_modules.config.command_line import GROUPS
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.config.metric_direction import check_direction, higher_is_better
from lightning_modules.config.signature import describe_type, hints_of, locate, matches_type, parameters_of
from lightning_modules.config.trust import components

# What the run itself passes to a component, beside what its config says.
INJECTED_ARGS: dict[str, set[str]] = {
    "optimizer": {"params"},
    "scheduler": {"optimizer", "total_steps", "steps_per_epoch"},
    "model": {"input_shape", "num_outputs"},
    "task": {
        "model", "loss", "preprocess", "augmentation", "tta", "optimizer", "scheduler", "num_outputs", "class_counts",
        "class_names", "seed", "batch_size", "steps_per_call", "log_every_n_steps", "decay_norms_and_biases",
    },
    "trainer": {"strategy", "callbacks", "logger"},
}  # fmt: skip
# What the run itself reads from a component's node.
RUN_KEYS = {"task": {"monitor"}}
RUNTIME_ARGS = {"model": ("input_shape", "num_outputs")}  # what is passed in any case, so that it must be taken
REQUIRED = ("data", "model", "task", "task.loss", "optimizer", "trainer")  # each with a `_target_`
# Plain values: the kind, and the smallest that makes sense.
SCALAR_RULES: dict[str, tuple[Any, float | None]] = {
    "seed": (int, 0),
    "name": (str | int | float | None, None),
    "resume.run": (str | int | None, None),
    "resume.allow": (list[str], None),
    "init_from": (str | int | None, None),
    "decay_norms_and_biases": (bool, None),
    "steps_per_call": (int | Literal["auto"], 1),
    "compile": (bool, None),
    "channels_last": (bool, None),
    "cuda_graphs": (bool, None),
    "matmul_precision": (Literal["highest", "high", "medium"] | None, None),
    "cpu_threads": (int | None, 1),
    "trainer.accumulate_grad_batches": (int, 1),
    "tracking.enabled": (bool, None),
    "tracking.uri": (str | None, None),
    "tracking.experiment": (str, None),
    "tracking.flush_points": (int, 1),
    "tracking.flush_seconds": (float, 0),
    "tracking.system_metrics_s": (float | None, 0),
    "tracking.pictures": (bool, None),
    "tracking.min_free_mb": (float, 0),
    "task.monitor.metric": (str, None),
    "task.monitor.mode": (Literal["min", "max"] | None, None),
}
TOP_LEVEL_KEYS = {
    *GROUPS,
    *(key for key in SCALAR_RULES if "." not in key),
    "resume",
    "search",
    "sweep",
    "claim",
    *("size_ratio", "macs_ratio", "latency_ratio", "max_drop"),  # of compression=budget
    "choices",
    "overrides",
}
_HYDRA_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


def check_config(cfg: DictConfig) -> None:
    """Raise one UserError that lists all unknown keys, missing or mistyped arguments and unimportable targets."""
    mistakes = [
        f"{key!s}: unknown key of the config; {suggest(str(key), TOP_LEVEL_KEYS - {'choices', 'overrides'})}"
        for key in cfg
        if str(key) not in TOP_LEVEL_KEYS
    ]
    mistakes += _interpolation_errors(cfg, "")
    if not mistakes:  # what follows reads every value
        mistakes += _scalar_mistakes(cfg) + _missing_groups(cfg)
        if isinstance(monitor := OmegaConf.select(cfg, "task.monitor"), DictConfig) and {"metric", "mode"} <= set(
            monitor
        ):
            mistakes += _check_monitor_mode("task.monitor", monitor.metric, monitor.mode)
        for path, node in components(cfg, ""):
            mistakes += _node_mistakes(path, node)
    mistakes = [
        mistake for mistake in mistakes if "${monitor_mode:}" not in mistake
    ]  # the direction has its own message
    if mistakes:
        count = f"{len(mistakes)} mistakes" if len(mistakes) > 1 else "A mistake"
        raise UserError(f"{count} in the config:\n" + "\n".join(f"  {mistake}" for mistake in mistakes))


def _interpolation_errors(node: DictConfig | ListConfig, path: str) -> list[str]:
    """Values that are still to be given (`???`), interpolations that lead nowhere, and integers that nothing can hold."""
    mistakes: list[str] = []
    keys: Any = list(node) if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        if key == "overrides" and not path:
            continue  # the words of the command line; what they set is looked at where it stands
        where = f"{path}[{key}]" if isinstance(node, ListConfig) else f"{path}.{key}".lstrip(".")
        if OmegaConf.is_missing(node, key):
            mistakes.append(f"{where}: a value is needed, as in {where}=…")
            continue
        try:
            value = node[key]
        except OmegaConfBaseException as error:
            mistakes.append(f"{where}={_raw_node(node, key)}: {str(error).splitlines()[0]}")
            continue
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            mistakes.append(f"{where}={value}: expected an integer of 64 bits, between -2**63 and 2**63 - 1")
        if isinstance(value, DictConfig | ListConfig) and not OmegaConf.is_interpolation(node, key):
            mistakes += _interpolation_errors(value, where)
    return mistakes


def _scalar_mistakes(cfg: DictConfig) -> list[str]:
    mistakes = []
    for place, known in (("tracking", "tracking."), ("task.monitor", "task.monitor."), ("resume", "resume.")):
        names = {key.removeprefix(known) for key in SCALAR_RULES if key.startswith(known)}
        given = OmegaConf.select(cfg, place)
        mistakes += [
            f"{place}.{key!s}: there is no such setting; {suggest(str(key), names)}"
            for key in (given if isinstance(given, DictConfig) else ())
            if str(key) not in names
        ]
    for path, (kind, least) in SCALAR_RULES.items():
        parent, _, leaf = path.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if not isinstance(node, DictConfig) or leaf not in node:
            continue
        value = node[leaf]
        if not matches_type(value, kind):
            mistakes.append(f"{path}={_raw_node(node, leaf)}: {describe_type(kind)} is wanted")
        elif isinstance(value, str) and not value.strip():
            mistakes.append(empty_value(path))
        elif least is not None and isinstance(value, int | float) and value < least:
            mistakes.append(f"{path}={_raw_node(node, leaf)}: it must be {least} or more")
    return mistakes


def empty_value(key: str) -> str:
    """The message for a key that names something and was given nothing."""
    return f"{key.removesuffix('.run')}=: the value is empty; give a name or an id, or leave the key out"


def _missing_groups(cfg: DictConfig) -> list[str]:
    """Groups that a run cannot be without, and that were deleted or set to null."""
    mistakes = []
    for path in REQUIRED:
        node = OmegaConf.select(cfg, path)
        if not isinstance(node, DictConfig):
            given = "null" if node is None else str(node)
            mistakes.append(f"{path}={given}: a run cannot be without it: a node with a '_target_' is wanted here")
        elif not node.get("_target_"):
            mistakes.append(
                f"{path}: '_target_' is missing: write the class or function to call, as in torch.optim.SGD"
            )
    for path in ("callbacks", "scheduler", "strategy", "tracking", *(k for k in SCALAR_RULES if "." not in k)):
        if path not in cfg:
            mistakes.append(f"{path}: this key of the config was taken out, but it is needed")
    if isinstance(cfg.get("tracking"), DictConfig) and "enabled" not in cfg.tracking:
        mistakes.append("tracking.enabled: this key of the config was taken out, but it is needed")
    for key, node in (cfg.get("callbacks") or {}).items():
        name = str(key)
        if node and not (isinstance(node, DictConfig) and node.get("_target_")):
            mistakes.append(f"callbacks.{name}: '_target_' is missing: write the callback's class")
    return mistakes


def _node_mistakes(path: str, node: DictConfig) -> list[str]:
    target = str(node["_target_"])
    try:
        function = locate(target)
    except UserError as error:
        return [f"{path}._target_={target}: {error}"]
    if not callable(function):
        return [f"{path}._target_={target}: this is a {type(function).__name__}, not a class or function"]
    accepts, anything = parameters_of(function)
    given = {str(key) for key in node} - _HYDRA_KEYS
    supplied = INJECTED_ARGS.get(path, set())
    options = accepts.keys() - (supplied - given)
    mistakes = [
        f"{path}.{key!s}={_raw_node(node, key)}: {target} takes no '{key}'; {suggest(key, options)}"
        for key in sorted(given - accepts.keys())
        if not anything and key not in RUN_KEYS.get(path, ())
    ]
    needed = [name for name, p in accepts.items() if p.default is p.empty and name not in given | supplied]
    if needed and "_args_" not in node and not (node.get("_partial_") and path not in INJECTED_ARGS):
        mistakes += [f"{path}.{name}: {target} needs a value for '{name}'" for name in needed]
    mistakes += [
        f"{path}._target_={target}: it takes no '{name}', which a run passes to every {path}; wrap it in a class that does"
        for name in RUNTIME_ARGS.get(path, ())
        if name not in given | accepts.keys() and not anything
    ]
    hints = hints_of(function)
    for key in sorted(given & accepts.keys() & hints.keys()):
        value = node[key]
        may_be_null = key in supplied or accepts[key].default is None
        if not (value is None and may_be_null) and not matches_type(value, hints[key]):
            said = f"{describe_type(hints[key])} is wanted, not {_type_name(value)}"
            mistakes.append(f"{path}.{key}={_raw_node(node, key)}: {said}")
    if {"monitor", "mode"} <= accepts.keys():
        metric = node.get("monitor", accepts["monitor"].default)
        unset = accepts["mode"].default if higher_is_better(str(metric)) is not None else None
        mistakes += _check_monitor_mode(path, metric, node.get("mode", unset))
    return mistakes


def _check_monitor_mode(path: str, metric: Any, mode: Any) -> list[str]:
    """What is wrong with the mode in which a part of the config monitors a metric."""
    if not isinstance(metric, str) or mode not in ("min", "max", None):
        return []  # another check names these
    wrong = check_direction(f"{path}.mode", metric, mode)
    return [wrong] if wrong else []


def _type_name(value: Any) -> str:
    kinds = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a list" if isinstance(value, ListConfig) else type(value).__name__)


def _raw_node(node: DictConfig | ListConfig, key: Any) -> str:
    """The value as it was written, with its interpolation."""
    plain: Any = OmegaConf.to_container(node, resolve=False)
    return "null" if plain[key] is None else str(plain[key])
