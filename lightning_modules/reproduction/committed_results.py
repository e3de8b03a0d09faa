"""Measured values of each claim, committed beside it as ``experiments/<paper>/results.json``.

Claims can be judged from these values without any run, and tables keep their rows even if the store lacks the runs.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict
from lightning_modules.reproduction.claim import Claim, SeedValues
from lightning_modules.reproduction.compose import project_path
from lightning_modules.reproduction.discovery import EXPERIMENTS
from lightning_modules.tracking.provenance_line import RunProvenance

FILE_NAME = "results.json"


@dataclass(frozen=True)
class Result:
    """The value of each seed of a claim, and when, where and with which code they were measured.

    Attributes:
        values: arm ("" without arms) -> seed -> value in the claim's unit; empty if only `summary` was kept.
        summary: mean, standard deviation and number of seeds; for claims with arms, of the paired differences.
        note: how the summary was obtained.
    """

    metric: str
    unit: str
    values: SeedValues
    origin: RunProvenance
    seconds: float | None = None
    summary: tuple[float, float, int] | None = None
    note: str = ""

    @property
    def n(self) -> int:
        """Number of seeds that all arms have."""
        if self.summary:
            return self.summary[2]
        return len(set.intersection(*map(set, self.values.values()))) if self.values else 0

    def values_for(self, claim: Claim) -> SeedValues:
        """The values to judge, or synthetic values with the mean, standard deviation and number of the summary.

        Student's t interval depends only on these three. For an ordering, the summary of the decisive pair is used for
        every pair.
        """
        if self.summary is None:
            return self.values
        mean, std, n = self.summary
        steps = np.arange(n) - (n - 1) / 2
        some = mean + std * steps / (steps.std(ddof=1) if n > 1 else 1.0)
        first = max(1, len(claim.arm_names) - 1)
        return {
            arm: {seed: float((first - place) * value) for seed, value in zip(claim.seeds, some, strict=False)}
            for place, arm in enumerate(claim.arm_names)
        }


def results_file(claim: str) -> Path:
    """The file with a claim's committed values."""
    return (EXPERIMENTS / claim).parent / FILE_NAME


def read_results(claims: Sequence[str]) -> dict[str, Result]:
    """Claim -> its committed values, for claims that have them.

    Raises:
        UserError: a file has an unexpected format.
    """
    found: dict[str, Result] = {}
    for file in dict.fromkeys(map(results_file, claims)):
        if file.is_file():
            entries = _read_entries(file)
            found |= {name: _parse_entry(file, name, entries[name]) for name in claims if name in entries}
    return found


def write_results(results: Mapping[str, Result]) -> list[Path]:
    """Update the claims in their files, keeping the entries of other claims. Returns the files that changed."""
    changed = []
    for file in dict.fromkeys(map(results_file, results)):
        before = _read_entries(file) if file.is_file() else {}
        mine = {name: _make_entry(result) for name, result in results.items() if results_file(name) == file}
        text = json.dumps(dict(sorted((before | mine).items())), indent=1, ensure_ascii=False) + "\n"
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            changed.append(file)
    return changed


def merge_newest(committed: Mapping[str, Result], stored: Mapping[str, Result]) -> dict[str, Result]:
    """For each claim the newer of the committed and the stored result; on the same day, the stored one."""
    found = dict(committed)
    for name, result in stored.items():
        if result.n and (name not in found or result.origin.date >= found[name].origin.date):
            found[name] = result
    return found


def _read_entries(file: Path) -> PlainDict:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{project_path(file)}: not valid JSON: {error}") from error
    if not isinstance(entries, dict):
        raise UserError(f"{project_path(file)}: expected an object with one entry per claim")
    return entries


def _parse_entry(file: Path, name: str, entry: PlainDict) -> Result:
    try:
        values = {arm: {int(seed): float(v) for seed, v in seeds.items()} for arm, seeds in entry["values"].items()}
        summary = entry.get("summary")
        return Result(
            metric=entry["metric"], unit=entry["unit"], values=values, seconds=entry["seconds"], note=entry.get("note", ""),
            summary=(summary["mean"], summary["std"], entry["n"]) if summary else None,
            origin=RunProvenance(entry["date"], entry["commit"], ", ".join(filter(None, (entry["machine"], entry["versions"])))),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{project_path(file)}: {name}: cannot be read ({type(error).__name__}: {error})") from error


def _make_entry(result: Result) -> dict[str, object]:
    machine, comma, versions = result.origin.machine.partition(", Python ")
    entry: dict[str, object] = {
        "metric": result.metric, "unit": result.unit, "n": result.n,
        "values": {arm: {str(seed): v for seed, v in seeds.items()} for arm, seeds in result.values.items()},
        "seconds": result.seconds and round(result.seconds, 1), "date": result.origin.date,
        "commit": result.origin.commit, "machine": machine, "versions": comma.removeprefix(", ") + versions,
    }  # fmt: skip
    if result.summary:
        entry["summary"] = {"mean": result.summary[0], "std": result.summary[1]}
        entry["note"] = result.note
    return entry
