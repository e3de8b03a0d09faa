"""Verdicts in the tracking store: logged to a claim's parent run, and read back for the tables."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from lightning_modules.config.errors import UserError
from lightning_modules.reproduction.claim import Claim, SeedValues
from lightning_modules.reproduction.claim_plot import save_claim_plot
from lightning_modules.reproduction.claim_report import claim_report, format_published
from lightning_modules.reproduction.committed_results import Result
from lightning_modules.reproduction.compose import ComposedClaim
from lightning_modules.reproduction.discovery import EXPERIMENTS
from lightning_modules.reproduction.verdict import Judgement
from lightning_modules.reproduction.verdict_table import ClaimRow
from lightning_modules.tracking.provenance_line import NO_PROVENANCE, RunProvenance
from lightning_modules.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run

ARTIFACT_FOLDER = "claim"


def log_verdict(
    store: Store, parent: str, composed: ComposedClaim, values: SeedValues, judged: Judgement, row: ClaimRow
) -> None:
    """Log a verdict to the run `parent` as tags, metrics, report and plot."""
    from mlflow.entities import Metric, RunTag

    claim = composed.claim
    report = claim_report(composed.name, claim, values, judged)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "report.md").write_text(report, encoding="utf-8")
        record = {"row": row_as_dict(row), "judgement": judged.as_dict(), "values": values}
        (place / "verdict.json").write_text(json.dumps(record, indent=1, default=str))
        plain = claim.model_dump(mode="json", exclude_none=True)
        (place / "claim.yaml").write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
        if any(values.values()):
            save_claim_plot(place / "picture.png", composed.name, claim, values, judged)
        store.client.log_artifacts(parent, folder, ARTIFACT_FOLDER)
    names = ("ours_mean", "ours_std", "n", "difference", "low", "high")
    numbers = {f"claim/{name}": getattr(judged, name) for name in names}
    logged = [Metric(key, float(value), 0, 0) for key, value in numbers.items() if value is not None]
    tags = {
        "claim": composed.name,
        "verdict": str(judged.verdict),
        "claim.expected": str(row.expected).lower(),
        "mlflow.note.content": f"##{report}"[:5000],  # MLflow overlaps the lines of a large heading
    }
    store.client.log_batch(parent, metrics=logged, tags=[RunTag(key, value) for key, value in tags.items()])


def row_as_dict(row: ClaimRow) -> dict[str, object]:
    """The row as JSON-serialisable values."""
    return {
        key: value if isinstance(value, int | float | bool | None) else str(value) for key, value in vars(row).items()
    }


def make_row(
    composed: ComposedClaim, judged: Judgement, seconds: float | None = 0.0, origin: RunProvenance = NO_PROVENANCE
) -> ClaimRow:
    """The table row of a judged claim."""
    claim = composed.claim
    low, high = judged.ours_interval or (None, None)
    samples = (part.sample() for part in (claim.arms if claim.kind == "ordering" else (claim,)))
    return ClaimRow(
        claim_id=composed.name,
        paper=cite(claim),
        source_kind=claim.source.kind,
        metric=claim.metric,
        unit=claim.unit,
        theirs=format_published(claim),
        ours_mean=judged.ours_mean,
        ours_low=low,
        ours_high=high,
        n=judged.n,
        difference=judged.difference,
        low=judged.low,
        high=judged.high,
        tolerance=judged.tolerance,
        verdict=judged.verdict,
        expected=judged.verdict in claim.expect,
        seconds=seconds,
        kind=claim.kind,
        theirs_mean=next((sample.mean for sample in samples if sample), None),
        **origin._asdict(),
    )


def load_results(store: Store, names: Sequence[str]) -> dict[str, Result]:
    """Claim -> the values of its newest verdict in the store. Runs with further overrides are ignored."""
    found: dict[str, Result] = {}
    for run in _claim_parents(store):
        name = run.data.tags["claim"]
        if name in names and name not in found and (result := _load_result(store, run)) is not None:
            found[name] = result
    return {name: found[name] for name in names if name in found}


def _claim_parents(store: Store) -> list["Run"]:
    everywhere = [experiment.experiment_id for experiment in store.client.search_experiments()]
    condition = "tags.`touchstone.kind` = 'sweep' AND tags.`verdict` LIKE '%' AND tags.`claim.overrides` = ''"
    return list(store.client.search_runs(everywhere, condition, 1, 5000, ["attributes.start_time DESC"]))


def _load_result(store: Store, run: "Run") -> Result | None:
    from lightning_modules.tracking.artifacts import artifact_path

    try:
        verdict = json.loads(artifact_path(store, run, f"{ARTIFACT_FOLDER}/verdict.json").read_text())
        row = verdict["row"]
        values = {arm: {int(seed): float(v) for seed, v in seeds.items()} for arm, seeds in verdict["values"].items()}
        origin = RunProvenance(row["date"], row["commit"], row["machine"])
        return Result(row["metric"], row["unit"], values, origin, row["seconds"])
    except (UserError, ValueError, TypeError, KeyError):  # written by an older version
        return None


def table_files(claims: Sequence[str]) -> dict[Path, list[str]]:
    """File -> the claims in its table: experiments/README.md has all, each experiments/*/README.md those of its folder."""
    files = {EXPERIMENTS / "README.md": list(claims)}
    for name in claims:
        files.setdefault((EXPERIMENTS / name).parent / "README.md", []).append(name)
    return files


def cite(claim: Claim) -> str:
    """``Greydanus 2024``: the first author's last name and the year."""
    first = claim.paper.authors.split(",")[0].split(" and ")[0].replace(" et al.", "").strip()
    return f"{first.split()[-1]} {claim.paper.year}"
