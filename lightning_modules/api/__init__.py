"""Touchstone from Python: in a script, a notebook or a larger program. Longer than 200 lines: the public functions."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, NamedTuple

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from lightning_modules.api.given_objects import GIVEN, given_object
from lightning_modules.api.process import as_command, mlflow_on, signals_passed_on, user_errors
from lightning_modules.config.check import RUN_KEYS
from lightning_modules.config.command_line import compose_run, model_name
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.config.plain import to_plain
from lightning_modules.config.run_names import study_mistakes
from lightning_modules.config.signature import require_lightning_type
from lightning_modules.config.task_groups import drop_unused_groups
from lightning_modules.tracking.tags import NOT_RERUNNABLE_TAG, STUDY_TAG

if TYPE_CHECKING:
    import pandas as pd
    import pytorch_lightning as pl

    from lightning_modules.tracking.record import Record


class RunResult(NamedTuple):
    """The id of a finished run (None with ``tracking=none``), and the last value of each of its metrics."""

    run_id: str | None
    metrics: Mapping[str, float]


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """Compose a config as ``touchstone train`` does with these overrides. Packages that they trust, this process trusts."""
    with as_command(overrides):
        before, of_caller = os.environ.get("TOUCHSTONE_TRUST"), HydraConfig.instance().cfg
        cfg = compose_run(overrides, by_user=True)
        trusted, HydraConfig.instance().cfg = os.environ.get("TOUCHSTONE_TRUST"), of_caller
    if trusted is not None and trusted != before:
        os.environ["TOUCHSTONE_TRUST"] = trusted
    return cfg


def run(
    cfg: DictConfig, task: "pl.LightningModule | None" = None, data: "pl.LightningDataModule | None" = None
) -> RunResult:
    """Train, test and record the run of a composed config, which is not changed.

    Args:
        task, data: objects in place of those of the config. Such a run cannot be rerun or resumed. Afterwards the task has
            the weights that were tested.

    Raises UserError for every mistake that can be found before the first step.
    """
    if not isinstance(cfg, DictConfig):
        raise UserError(f"run: expected a config, as compose(['data=digits']) makes it, got a {type(cfg).__name__}")
    with as_command(cfg.get("overrides") or ()):
        from lightning_modules.run.run import run as run_config

        cfg, context, started = cfg.copy(), copy_context(), list[str]()
        objects = {group: given for group, given in (("task", task), ("data", data)) if given is not None}
        for group, given in objects.items():
            _set_object(cfg, group, given)
        context.run(GIVEN.set, dict(objects))
        words = [str(word).lstrip("+~") for word in cfg.get("overrides") or ()]
        if (
            "data" not in objects
            and task is not None
            and not any(word.startswith(("data=", "data.")) for word in words)
        ):
            print(f"data: {cfg.choices.get('data')} (the config's default), as run() was given no data=", flush=True)
        tags = {NOT_RERUNNABLE_TAG: " and ".join(objects)} if objects else {}
        metrics = context.run(run_config, cfg, tags, on_start=started.append)
    return RunResult(next(iter(started), None), metrics)


def _set_object(cfg: DictConfig, group: str, given: "pl.LightningModule | pl.LightningDataModule") -> None:
    """Name an object in the config. Raises UserError if it is none of Lightning's, or if the user has chosen something else."""
    import pytorch_lightning as pl

    from lightning_modules.task.supervised import Supervised
    from lightning_modules.tracking.checkpoint import plain_hyperparameters

    kind, option = {
        "task": (pl.LightningModule, "lightning_module"),
        "data": (pl.LightningDataModule, "lightning_datamodule"),
    }[group]
    require_lightning_type(given, kind, group)
    if isinstance(given, Supervised):
        raise UserError("task: a task of ours is built from the config: run(cfg), with init_from=RUN for its weights")
    if cfg.resume.run is not None:
        raise UserError(f"resume={cfg.resume.run}: a resumed run has the {group} of its record; give no object")
    chosen = cfg[group] if cfg.choices.get(group) == option else {}  # else the user has chosen none, or the wrong one
    words = [str(word).lstrip("+~") for word in cfg.get("overrides") or () if not chosen]
    settings = [key for key in chosen if key not in RUN_KEYS[group] and not OmegaConf.is_missing(chosen, key)]
    if wrong := [*settings, *(word for word in words if word.startswith((f"{group}=", f"{group}.")))]:
        raise UserError(f"{group}: {wrong[0]} has no effect on an object; remove it, and use {group}={option}")
    hparams, _ = plain_hyperparameters(dict(given.hparams))
    recorded_only = {k: v if isinstance(v, int | float) else str(v).replace("${", r"\${") for k, v in hparams.items()}
    name = {"group": group, "object_class": f"{type(given).__module__}.{type(given).__qualname__}"}
    target = f"{given_object.__module__}.{given_object.__name__}"
    with open_dict(cfg):
        unnamed = cfg.name == model_name(cfg)
        kept = {key: chosen.get(key) for key in RUN_KEYS[group]}
        cfg[group] = OmegaConf.create({**recorded_only, **kept, **name, "_target_": target})
        cfg.choices[group] = option
        drop_unused_groups(cfg)
        cfg.name = model_name(cfg) if unnamed else cfg.name


@contextlib.contextmanager
def recorded(
    experiment: str = "touchstone",
    config: Mapping[str, object] | None = None,
    name: str | None = None,
    study: str | None = None,
) -> Iterator["Record"]:
    """Record a block of code as a run: its config, program, environment, system metrics, and how it ends.

    ``run.log_metrics({"loss": 0.3}, step)`` is fast enough for every step; files in ``run.folder`` are its artifacts, and
    ``mlflow.log_*`` write to the same run. The status is FINISHED, FAILED with the traceback, or KILLED by a signal.

    Args:
        experiment: created if it does not exist.
        config: settings, recorded as params; a mapping, also of OmegaConf.
        name: of the run; MLflow makes one up by default.
        study: that the run is part of, across experiments.
    """
    from lightning_modules.tracking.record_run import open_record, record_run
    from lightning_modules.tracking.store import open_store

    settings = {
        "experiment": experiment,
        "name": name,
        "flush_points": 500,
        "flush_seconds": 5,
        "system_metrics_s": None,
    }
    if not isinstance(config or {}, Mapping):
        raise UserError(f"recorded: expected a mapping as config, as vars(args) is, got a {type(config).__name__}")
    values, tags = json.loads(json.dumps(to_plain(config or {}), default=str)), {NOT_RERUNNABLE_TAG: "loop"}
    if mistakes := study_mistakes(study):
        raise UserError(mistakes[0])
    tags |= {STUDY_TAG: study} if study else {}
    store = open_store()
    with (
        signals_passed_on(),
        record_run(lambda: user_errors()(open_record)(store, values, {}, None, tags, settings)) as record,
    ):
        yield record


def load(wanted: str, task: "pl.LightningModule | None" = None) -> "pl.LightningModule":
    """The module of a run with its best weights (the last ones if it monitors nothing), in evaluation mode.

    Args:
        wanted: id, its first 6 or more characters, or name of a run; or ``models:/…``.
        task: takes the weights, if the run was given its task as an object.

    Raises UserError if there is no such run, if it has no weights, or if they do not belong to the module.
    """
    with as_command():
        from lightning_modules.run.lightning_task import load_weights_from_checkpoint
        from lightning_modules.run.serve import load_module, model_weights
        from lightning_modules.tracking.checkpoint import read_checkpoint
        from lightning_modules.tracking.resume import best_checkpoint
        from lightning_modules.tracking.store import find_run, open_store

        store, model = open_store(), wanted.startswith("models:/")
        path = model_weights(store, wanted) if model else best_checkpoint(store, find_run(store, wanted))
        if task is None:
            return load_module(path)
        load_weights_from_checkpoint(task, read_checkpoint(path), str(path))
        return task.eval()


def runs(experiment: str | None = None, where: str = "", order_by: str = "start_time DESC") -> "pd.DataFrame":
    """The recorded runs, a row each, as ``mlflow.search_runs`` returns them.

    Args:
        experiment: its name; None for all.
        where: a filter of MLflow, as in ``metrics.`val/loss` < 0.3 and params.data = 'digits'``.

    Raises UserError if there is no such experiment, or if MLflow rejects the filter.
    """
    with as_command():
        import mlflow

        from lightning_modules.tracking.store import open_store

        store = open_store()
        ids = {found.name: found.experiment_id for found in store.client.search_experiments()}
        if experiment is not None and experiment not in ids:
            raise UserError(f"no experiment {experiment!r}; {suggest(experiment, ids)}")
        with mlflow_on(store):
            chosen = [ids[experiment]] if experiment is not None else list(ids.values())
            return mlflow.search_runs(chosen, where, order_by=[order_by])


def compare(
    *targets: str,
    by: Sequence[str] | None = None,
    metric: str | None = None,
    baseline: str | None = None,
    better: str | None = None,
    study: str | None = None,
) -> "pd.DataFrame":
    """Groups of runs over their seeds, a row each, best first, as ``touchstone compare`` prints them; nothing is logged.

    ``frame.attrs`` has the metric, whether lower is better, and the notes below the table.

    Args:
        targets, by, metric, baseline, better, study: as on the command line; `metric` may be an expression.

    Raises UserError for an unknown target, metric or key, or if no run is finished.
    """
    with as_command():
        import io

        import pandas as pd

        from lightning_modules.comparison.compare import compare as compare_runs
        from lightning_modules.comparison.compare import open_run_reader
        from lightning_modules.comparison.result import CompareRequest
        from lightning_modules.comparison.table import to_csv
        from lightning_modules.store.metric_expression import with_expressions
        from lightning_modules.store.study import within_study

        reader, chosen = within_study(open_run_reader(), targets, study)
        request = CompareRequest(chosen, by, metric, baseline, better)
        found = compare_runs(with_expressions(reader), request)
        text = io.StringIO(to_csv(found))
        table = pd.read_csv(text, dtype=dict.fromkeys(found.by, str), keep_default_na=False, na_values=[""])
        table.attrs = {"metric": found.metric, "lower_is_better": found.lower_is_better, "notes": list(found.notes)}
        return table


def sync(to: str | None = None, runs: Sequence[str] = (), experiment: str | None = None) -> list[dict[str, str]]:
    """Send buffered data, and push local runs to a server, as ``touchstone store sync``; return the pushed runs.

    Args:
        to: its address; by default MLFLOW_TRACKING_URI.
        runs: ids or names, also of sweeps; by default all.
        experiment: only the runs of this one.
    """
    with as_command():
        from lightning_modules.store.sync import sync as sync_runs

        return sync_runs(None, to, runs, experiment)
