"""Whether higher or lower is better for a metric: one table for checkpoints, schedules, searches and comparisons."""

import re

from omegaconf import DictConfig, OmegaConf

from lightning_modules.config.errors import UserError, did_you_mean
from lightning_modules.config.plain import PlainDict

_HIGHER_IS_BETTER = (
    "accuracy acc top1 top5 auroc auc roc_auc auprc average_precision map map_50 f1 f1_score fbeta precision recall specificity "
    "sensitivity kappa mcc jaccard iou miou dice r2 r2_score explained_variance pearson spearman ndcg dcg hit_rate hits mrr "
    "map_75 mar_100 log_likelihood bleu rouge psnr ssim reward return speedup throughput per_s per_second compression/ratio "
    "modes high_quality"
)
_LOWER_IS_BETTER = (
    "loss error err error_rate rmse mse mae mape msle nll negative_log_likelihood cross_entropy perplexity ppl brier ece "
    "hamming_distance kl_divergence wer cer fid bytes kb mb ms s seconds time latency duration params macs flops nonzero "
    "per_char drop"
)
_DIRECTIONS = dict.fromkeys(_HIGHER_IS_BETTER.split(), True) | dict.fromkeys(_LOWER_IS_BETTER.split(), False)
# a suffix that keeps the direction
_QUALIFIER = re.compile(r"(_at_\d+|@\d+|_best|_best_val|_best_runtime|_epoch|_step|_mean|_p\d+)$")
_NEGATION = {"neg", "negative", "minus", "inverse", "non"}


def higher_is_better(metric: str) -> bool | None:
    """Whether a higher `metric` is better; None if its name is unknown.

    The lookup ignores the split (``val/``), qualifiers (``sampled_…``, ``…_at_10``) and the class (``…/class``).

    >>> higher_is_better("val/ndcg_at_10"), higher_is_better("val/loss"), higher_is_better("weights/norm")
    (True, False, None)
    """
    if re.search(r"\s[-+*/]+\s|\(", metric):  # an expression of metrics
        return None
    name = metric.lower()
    known = (_DIRECTIONS.get(name), *map(_lookup, name.split("/")))
    return next((found for found in known if found is not None), None)


def _lookup(name: str) -> bool | None:
    while (shorter := _QUALIFIER.sub("", name)) != name:
        name = shorter
    words = re.split(r"[_. -]+", name)
    for start in range(len(words)):
        if (candidate := "_".join(words[start:])) in _DIRECTIONS:
            return _DIRECTIONS[candidate]
        if words[start] in _NEGATION:
            return None
    return None


def monitor_mode(*, _parent_: DictConfig, _root_: DictConfig) -> str | None:
    """The resolver ``${monitor_mode:}``: Lightning's ``mode`` for the metric that the same config node monitors.

    A metric of unknown direction takes the mode of ``task.monitor`` if that has the same metric, otherwise None.
    """
    metric = str(_parent_.get("monitor") or _parent_.get("metric"))
    if (higher := higher_is_better(metric)) is not None:
        return "max" if higher else "min"
    task = OmegaConf.select(_root_, "task.monitor")
    return task.mode if task is not None and task is not _parent_ and task.metric == metric else None


def check_direction(key: str, metric: str, given: str | None, modes: tuple[str, str] = ("min", "max")) -> str | None:
    """Return a message if direction `given` under the config key `key` is wrong for `metric`, else None.

    Args:
        modes: the spellings of "lower is better" and "higher is better".
    """
    higher = higher_is_better(metric)
    if given is None and higher is None:
        guess = did_you_mean(metric.rpartition("/")[2], _DIRECTIONS) if " " not in metric else ""
        hint = f" ({guess})" if guess else ""
        return f"{key}: the direction of '{metric}' is not known{hint}; set {key}={modes[0]} or {key}={modes[1]}"
    if higher is not None and given != modes[higher]:
        given = "null" if given is None else given
        return f"{key}={given}: a {'higher' if higher else 'lower'} '{metric}' is better; set {key}={modes[higher]}"
    return None


def sweep_objective(monitor: PlainDict) -> dict[str, str]:
    """The monitored metric of a task as a sweep objective: metric -> ``minimize`` or ``maximize``; empty if there is none.

    Raises UserError if its mode contradicts its name, or if the direction is unknown.
    """
    if monitor["metric"] is None:
        return {}
    if wrong := check_direction("task.monitor.mode", monitor["metric"], monitor["mode"]):
        raise UserError(wrong)
    return {monitor["metric"]: {"min": "minimize", "max": "maximize"}[monitor["mode"]]}
