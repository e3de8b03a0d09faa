"""The metrics that a run will log, derived from its config without reading data or training."""

import re

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from lightning_modules.config.task_groups import is_supervised

# Metrics that a run logs besides those of its task.
_ALWAYS_LOGGED = ("model/params", "model/size_bytes", "throughput/samples_per_s", "epoch")
_CALLBACK_METRICS = {
    "WeightProjections": r"weights/(norm|projection_\d+)", "LatencyMonitor": r"model/latency_ms", "EpochLoss": r"train/\w+",
    "LearningRateMonitor": r"lr-.+",
}  # fmt: skip
_COMPRESSION_METRICS = (
    r"(dense|compressed)/(size_bytes|params|nonzero|macs|latency_ms|peak_memory_bytes|bound_bytes)(_\w+|/\w+)?"
    r"|compression/(ratio|speedup|speedup_best_runtime|over_bound)"
)
_DUMMY_CLASSES = 3  # stands for any number of classes


def is_logged(metric: str, cfg: DictConfig, names: set[str]) -> bool:
    """Whether a run of this config logs `metric`; `names` are those of the task, from `task_metrics`."""
    if metric in names or metric in _ALWAYS_LOGGED or any(metric.startswith(f"{name}/") for name in names):
        return True  # per class, as in test/f1/cat
    targets = [str(node.get("_target_")).rpartition(".")[2] for node in (cfg.callbacks or {}).values() if node]
    patterns = [pattern for target, pattern in _CALLBACK_METRICS.items() if target in targets]
    patterns += [r"(comm|sync)/\w+"] if (cfg.get("strategy") or {}).get("_target_") else []
    patterns += [r"tta/(test/.+)"] if (cfg.get("tta") or {}).get("_target_") else []
    if (cfg.get("compression") or {}).get("stages"):
        side = re.fullmatch(r"(?:dense|compressed|ticket)/(.+?)(?:_best|_best_val)?", metric)
        if side and (side[1] in names or side[1].removesuffix("_best") in names):
            return True
        patterns.append(_COMPRESSION_METRICS)
    return any(re.fullmatch(pattern, metric) for pattern in patterns)


class _DummyNetwork(nn.Sequential):
    """Placeholder network, on which no metric name depends: a linear layer with the interface of recommendation networks."""

    num_users = num_items = 2

    def item_scores(self, *_: object) -> object:
        raise NotImplementedError

    squared_norms = user_bias = item_bias = item_scores


def task_metric_names(cfg: DictConfig) -> set[str] | None:
    """The metric names that the config's task logs; None if the task needs data to know them, or is not one of ours."""
    if not is_supervised(cfg):
        return None
    known = cfg.task.get("num_outputs") or (cfg.model or {}).get("num_outputs")
    for outputs in [known] if known else [_DUMMY_CLASSES, 1]:
        settings = {key: value for key, value in cfg.task.items() if key != "monitor"}
        settings |= {"num_outputs": outputs} if "num_outputs" in settings else {}
        try:
            task = instantiate(OmegaConf.create(settings), model=_DummyNetwork(nn.Linear(2, 2)))
            found = {f"train/{name}" for name in task.train_metric_names} | {"val/loss", "test/loss"}
            return found | {f"{part}/{name}" for part in ("val", "test") for name in task.build_metrics(part)}
        except Exception:  # wrong number of outputs, a user's task, or a mistake that `check_config` reports
            continue
    return None
