"""The metric that is compared, and whether lower is better."""

from collections.abc import Mapping, Sequence

from lightning_modules.comparison.run_reader import RunReader
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.config.metric_direction import check_direction, higher_is_better

PREFERRED_METRICS = ("accuracy", "auroc", "f1", "r2", "rmse", "mae", "mse", "loss")


def lower_is_better(metric: str, better: str | None, objectives: Mapping[str, str]) -> bool:
    """From the metric's name; for an unknown name from `better` (higher or lower) or the sweep's objective.

    Raises:
        UserError: `better` contradicts the name, or the direction is unknown.
    """
    sweeps = {"minimize": "lower", "maximize": "higher"}.get(objectives.get(metric, ""))
    known = {True: "higher", False: "lower", None: sweeps}[higher_is_better(metric)]
    if wrong := check_direction("better", metric, better or known, ("lower", "higher")):
        raise UserError(wrong)
    return (better or known) == "lower"


def read_metric(reader: RunReader, ids: Sequence[str], metric: str | None) -> tuple[str, dict[str, float]]:
    """The metric's name and run id -> value. The default (None) is test/accuracy if any run has it, else a similar metric.

    Raises:
        UserError: no run has the metric.
    """
    wanted = metric or "test/accuracy"
    values = reader.metric(ids, wanted)
    if values:
        return wanted, values
    names = {name for name in reader.metric_names(ids) if not name.startswith("system/")}
    if metric is not None:
        raise UserError(f"metric=: no finished run has the metric '{metric}'; {suggest(metric, names)}")
    found = _default_metric(names)
    if found is None:
        raise UserError(f"no run has a test/… or val/… metric; choose another with metric=; {suggest('test/', names)}")
    return found, reader.metric(ids, found)


def _default_metric(names: set[str]) -> str | None:
    for split in ("test", "val"):
        preferred = [f"{split}/{name}" for name in PREFERRED_METRICS]
        others = sorted(name for name in names if name.startswith(f"{split}/") and name.count("/") == 1)
        for name in [*preferred, *others]:
            if name in names:
                return name
    return None
