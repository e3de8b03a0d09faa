"""Which runs are compared: resolves the targets on the command line."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from lightning_modules.comparison.run_reader import PARENT_TAG, Run, RunReader
from lightning_modules.config.errors import UserError

UNTRAINED_KINDS = ("sweep", "comparison")  # parent runs that hold the results of others


@dataclass(frozen=True)
class Selection:
    """The finished runs, and where they come from.

    Attributes:
        runs: sorted by id, without duplicates.
        left_out: status of the other runs -> count.
        home: the parent of all runs, to which the comparison is logged; None if there is no common one.
        swept: the swept keys, if a single sweep is compared.
        objectives: metric -> minimize or maximize, from the sweeps.
    """

    runs: tuple[Run, ...]
    left_out: Counter[str]
    home: str | None
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
        is_sweep = head is not None and (bool(children) or _is_sweep(head))
        sweeps += [head] if head and is_sweep else []
        found |= {run.run_id: run for run in (children if is_sweep or head is None else [head])}
    trained = [run for run in found.values() if run.tags.get("touchstone.kind") not in UNTRAINED_KINDS]
    finished = tuple(sorted((run for run in trained if run.ended == "FINISHED"), key=lambda run: run.run_id))
    left_out = Counter(run.ended for run in trained if run.ended != "FINISHED")
    if not finished:
        what = ", ".join(f"{count} {ended}" for ended, count in left_out.items())
        raise UserError(f"{' '.join(targets)}: no finished run to compare{f' ({what})' if what else ''}")
    return _build_selection(finished, left_out, sweeps, alone=len(targets) == 1)


def _is_sweep(run: Run) -> bool:
    return run.tags.get("touchstone.kind") == "sweep"


def _sweep_runs(reader: RunReader, parent: Run) -> list[Run]:
    """The trials, and older runs that the sweep reused instead of training again."""
    linked = [str(i) for i in parent.json("sweep.linked", {}).values()]
    older = reader.runs(ids=[i for i in linked if re.fullmatch(r"[0-9a-f]{32}", i)])
    return reader.runs(parent=parent.run_id) + older


def _build_selection(runs: tuple[Run, ...], left_out: Counter[str], sweeps: list[Run], alone: bool) -> Selection:
    objectives = {str(k): str(v) for sweep in sweeps for k, v in sweep.json("sweep.objectives", {}).items()}
    if alone and sweeps:
        keys = tuple(str(key).lstrip("+~") for key in sweeps[0].json("sweep.keys", []))
        return Selection(runs, left_out, sweeps[0].run_id, keys or None, objectives)
    parents = {run.tags.get(PARENT_TAG) for run in runs}
    return Selection(runs, left_out, parents.pop() if len(parents) == 1 else None, None, objectives)
