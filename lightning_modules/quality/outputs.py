"""Output of results: JSON files, plots, and a run in the tracking store."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict, flatten
from lightning_modules.config.project import code_folder, runs_folder
from lightning_modules.config.signals import defer_signals
from lightning_modules.quality.findings import Findings
from lightning_modules.tracking.provenance import command_line, git_state
from lightning_modules.tracking.secrets import mask_secrets
from lightning_modules.tracking.store import Store
from lightning_modules.tracking.tags import COMMAND_TAG, DATA_FINGERPRINT_TAG, GIT_COMMIT_TAG, GIT_DIRTY_TAG, KIND_TAG


def write_json(path: Path, record: Mapping[str, object]) -> None:
    """Write a record atomically. Raises UserError if it cannot be written."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True) if part.parent.is_dir() else None
        raise UserError(f"out={path} cannot be written: {error.strerror}") from error


def default_path(verb: str, record: PlainDict) -> Path:
    """Return ``mlruns/quality/NAME-CONTENT.VERB.json`` in the project."""
    return runs_folder() / "quality" / f"{record['data']}-{record['content'][:8]}.{verb}.json"


def write_report(folder: Path, findings: Findings, report: Mapping[str, object]) -> list[Path]:
    """Write report.json and the plots to `folder`."""
    from lightning_modules.quality.plots import draw_plots

    write_json(folder / "report.json", replace_non_finite(report))
    files = [folder / "report.json"]
    for name, figure in draw_plots(findings, dict(report)):
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=120)
    return files


def replace_non_finite(value: object) -> Any:
    """Replace NaN and infinities by None for JSON."""
    if isinstance(value, Mapping):
        return {str(key): replace_non_finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [replace_non_finite(inner) for inner in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


def report_metrics(report: PlainDict) -> dict[str, float]:
    """Return the counts of a report as metrics."""
    keep = {"samples": report["samples"], "missing_values": report["values"]["missing_values"]}
    keep |= {key: report["values"][key] for key in ("constant_columns", "constant_samples")}
    keep |= {key: value for key, value in report["duplicates"].items() if isinstance(value, int)}
    keep |= {f"leaks/{parts}": count for parts, count in report["duplicates"]["leaks"].items()}
    keep["leaks"] = sum(report["duplicates"]["leaks"].values())
    keep["outliers"] = report["outliers"]["isolated"]
    if errors := report["label_errors"]:
        keep |= {"label_errors": errors["found"], "label_noise": errors["estimated_noise"]}
    if drift := report["drift"]:
        keep |= {"drift/columns": drift["drifted_columns"], "drift/auc": drift["auc"]}
    return {key.replace("+", "_"): float(value) for key, value in keep.items() if value is not None}


def _create_run(
    store: Store, experiment: str, verb: str, config: Mapping[str, object], record: Mapping[str, object],
    metrics: Mapping[str, float], files: list[Path],
) -> str:  # fmt: skip
    """Create a run with these files; return its id."""
    from mlflow.entities import Metric, Param

    git, content, name = git_state(code_folder()), record["content"], record["data"]
    tags = {
        "kind": "data", KIND_TAG: "data", "data.verb": verb, "data.name": name, "data.content": content,
        COMMAND_TAG: command_line(), GIT_COMMIT_TAG: git.commit or "", GIT_DIRTY_TAG: str(git.dirty).lower(),
        DATA_FINGERPRINT_TAG: content,
    }  # fmt: skip
    client = store.client
    run_id: str = client.create_run(store.experiment(experiment), run_name=f"{verb} {name}", tags=tags).info.run_id
    status = "FAILED"
    try:
        params = {**flatten(mask_secrets(dict(config))), "content": content}
        client.log_batch(
            run_id,
            metrics=[Metric(key, value, 0, 0) for key, value in metrics.items()],
            params=[Param(key, str(value)[:6000]) for key, value in params.items()][:100],
        )
        for file in files:
            client.log_artifact(run_id, str(file))
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)
    return run_id


def log_results(
    store: Store | None, experiment: str, verb: str, config: Mapping[str, object], record: Mapping[str, object],
    metrics: Mapping[str, float], files: list[Path],
) -> None:  # fmt: skip
    """Log these files as a run if there is a store; warn if it is not available (everything is printed anyway)."""
    from mlflow.exceptions import MlflowException

    if store is None:
        return
    try:
        with defer_signals():  # a signal must not leave the run in status RUNNING
            run_id = _create_run(store, experiment, verb, config, record, metrics, files)
    except (MlflowException, OSError) as error:
        print(f"warning: not logged: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        return
    print(f"logged to run {run_id}")
