"""What is compared: the runs that the targets on the command line name, and their metric."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lightning_modules.comparison.run_reader import Run, RunReader
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.config.metric_direction import check_direction, higher_is_better
from lightning_modules.tracking.tags import (
    KIND_TAG,
    PARENT_RUN_TAG,
    SWEEP_KEYS_TAG,
    SWEEP_LINK_TAG,
    SWEEP_LINKED_TAG,
    SWEEP_OBJECTIVES_TAG,
)

PREFERRED_METRICS = ("accuracy", "auroc", "f1", "r2", "rmse", "mae", "mse", "loss")
UNTRAINED_KINDS = ("sweep", "comparison")  # parent runs that hold the results of others


@dataclass(frozen=True)
class Selection:
    """The finished runs, and where they come from.

    Attributes:
        runs: sorted by id, without duplicates.
        unfinished: status of the other runs -> count.
        parent_id: the parent of all runs, to which the comparison is logged; None if there is no common one.
        swept: the swept keys, if a single sweep is compared.
        objectives: metric -> minimize or maximize, from the sweeps.
    """

    runs: tuple[Run, ...]
    unfinished: Counter[str]
    parent_id: str | None
    swept: tuple[str, ...] | None = None
    objectives: dict[str, str] = field(default_factory=dict)


def select_runs(reader: RunReader, targets: Sequence[str]) -> Selection:
    """Resolve each of `targets`: an experiment name, or a run's id, id prefix or name. A sweep stands for its trials.

    Raises:
        UserError: a target is unknown or ambiguous, or no run is finished.
    """
    found: dict[str, Run] = {}
    sweeps: list[Run] = []
    for target in targets:
        experiment = reader.experiment(target)
        head = None if experiment else reader.find(target)
        children = _sweep_runs(reader, head) if head else reader.runs(experiment=str(experiment))
        is_sweep = head is not None and (bool(children) or head.tags.get(KIND_TAG) == "sweep")
        sweeps += [head] if head and is_sweep else []
        found |= {run.run_id: run for run in (children if is_sweep or head is None else [head])}
    trained = [run for run in found.values() if run.tags.get(KIND_TAG) not in UNTRAINED_KINDS]
    finished = tuple(sorted((run for run in trained if run.ended == "FINISHED"), key=lambda run: run.run_id))
    unfinished = Counter(run.ended for run in trained if run.ended != "FINISHED")
    if not finished:
        what = ", ".join(f"{count} {ended}" for ended, count in unfinished.items())
        raise UserError(f"{' '.join(targets)}: no finished run to compare{f' ({what})' if what else ''}")
    return _build_selection(finished, unfinished, sweeps, alone=len(targets) == 1)


def _sweep_runs(reader: RunReader, parent: Run) -> list[Run]:
    """The trials, and older runs that the sweep reused instead of training again."""
    return reader.runs(tagged=(PARENT_RUN_TAG, parent.run_id)) + reused_runs(reader, parent)


def reused_runs(reader: RunReader, parent: Run) -> list[Run]:
    """The older runs that a sweep reused."""
    linked = [str(i) for i in parent.json(SWEEP_LINKED_TAG, {}).values()]
    linked += [run_id for key, run_id in parent.tags.items() if key.startswith(SWEEP_LINK_TAG)]
    return reader.runs(ids=[i for i in linked if re.fullmatch(r"[0-9a-f]{32}", i)])


def _build_selection(runs: tuple[Run, ...], unfinished: Counter[str], sweeps: list[Run], alone: bool) -> Selection:
    objectives = {str(k): str(v) for sweep in sweeps for k, v in sweep.json(SWEEP_OBJECTIVES_TAG, {}).items()}
    if alone and sweeps:
        keys = tuple(str(key).lstrip("+~") for key in sweeps[0].json(SWEEP_KEYS_TAG, []))
        return Selection(runs, unfinished, sweeps[0].run_id, keys or None, objectives)
    parents = {run.tags.get(PARENT_RUN_TAG) for run in runs}
    return Selection(runs, unfinished, parents.pop() if len(parents) == 1 else None, None, objectives)


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


def read_metric(
    reader: RunReader, ids: Sequence[str], metric: str | None, objectives: Iterable[str] = ()
) -> tuple[str, dict[str, float]]:
    """The metric's name and run id -> value. None: test/accuracy, else a similar metric, else what the sweeps optimized.

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
    found = _default_metric(names) or next((name for name in objectives if name in names), None)
    if found is None:
        raise UserError(f"no run has a test/… or val/… metric; choose another with metric=; {suggest('test/', names)}")
    return found, reader.metric(ids, found)


def _default_metric(names: set[str]) -> str | None:
    for split in ("test/", "val/", "test_", "val_"):  # the last two: as many LightningModules name them
        measured = sorted(name for name in names if name.startswith(split) and name.count("/") == split.count("/"))
        for name in [*(f"{split}{name}" for name in PREFERRED_METRICS), *measured]:
            if name in names:
                return name
    return None
