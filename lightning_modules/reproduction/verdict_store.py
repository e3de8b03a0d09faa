"""Verdicts in the tracking store: logged to a claim's parent run, and read back for the tables."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from lightning_modules.config.errors import UserError
from lightning_modules.reproduction.claim import SeedValues
from lightning_modules.reproduction.claim_plot import plot_claim
from lightning_modules.reproduction.claim_report import ClaimRow, claim_description, claim_report
from lightning_modules.reproduction.committed_results import Result
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.provenance_line import RunProvenance
from lightning_modules.tracking.store import Store
from lightning_modules.tracking.tags import (
    CLAIM_EXPECTED_TAG,
    CLAIM_OVERRIDES_TAG,
    CLAIM_TAG,
    KIND_TAG,
    NOTE_TAG,
    VERDICT_TAG,
)

if TYPE_CHECKING:
    from mlflow.entities import Run

ARTIFACT_FOLDER = "claim"


def log_verdict(store: Store, parent: str, row: ClaimRow, values: SeedValues) -> None:
    """Log a verdict to the run `parent` as tags, metrics, report and plot."""
    from mlflow.entities import Metric

    claim, judged = row.claim, row.judged
    report = claim_report(row.claim_id, claim, values, judged)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "report.md").write_text(report, encoding="utf-8")
        about = {"metric": claim.metric, "unit": claim.unit, "seconds": row.seconds, **row.origin._asdict()}
        record = {"row": about, "judgement": asdict(judged), "values": values}
        (place / "verdict.json").write_text(json.dumps(record, indent=1, default=str))
        plain = claim.model_dump(mode="json", exclude_none=True)
        (place / "claim.yaml").write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
        if any(values.values()):
            plot_claim(row.claim_id, claim, values, judged).savefig(place / "picture.png")
        store.client.log_artifacts(parent, folder, ARTIFACT_FOLDER)
    numbers = {name: getattr(judged, name) for name in ("ours_mean", "ours_std", "n", "difference", "low", "high")}
    logged = [Metric(f"claim/{name}", float(value), 0, 0) for name, value in numbers.items() if value is not None]
    tags = {
        CLAIM_TAG: row.claim_id,
        VERDICT_TAG: str(judged.verdict),
        CLAIM_EXPECTED_TAG: str(row.expected).lower(),
        NOTE_TAG: claim_description(row, report)[:8000],
    }
    store.client.log_batch(parent, metrics=logged)
    store.set_tags(parent, tags)


def load_results(store: Store, names: Sequence[str]) -> dict[str, Result]:
    """Claim -> the values of its newest verdict in the store. Runs with further overrides are ignored."""
    condition = f"tags.`{KIND_TAG}` = 'sweep' AND tags.`{VERDICT_TAG}` LIKE '%' AND tags.`{CLAIM_OVERRIDES_TAG}` = ''"
    found: dict[str, Result] = {}
    for run in store.search_runs(condition, "attributes.start_time DESC"):
        name = run.data.tags[CLAIM_TAG]
        if name in names and name not in found and (result := _load_result(store, run)) is not None:
            found[name] = result
    return {name: found[name] for name in names if name in found}


def _load_result(store: Store, run: "Run") -> Result | None:
    try:
        verdict = json.loads(artifact_path(store, run, f"{ARTIFACT_FOLDER}/verdict.json").read_text())
        row = verdict["row"]
        values = {arm: {int(seed): float(v) for seed, v in seeds.items()} for arm, seeds in verdict["values"].items()}
        origin = RunProvenance(row["date"], row["commit"], row["machine"])
        return Result(row["metric"], row["unit"], values, origin, row["seconds"])
    except (UserError, ValueError, TypeError, KeyError):  # written by an older version
        return None
