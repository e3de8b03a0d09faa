"""Internal references: freeze ten or more seeds of a claim, to check later code changes against."""

from datetime import date
from pathlib import Path

import yaml

from lightning_modules.config.errors import UserError
from lightning_modules.reproduction.claim import SeedValues
from lightning_modules.reproduction.compose import ComposedClaim
from lightning_modules.reproduction.discovery import EXPERIMENTS, claim_files

MIN_SEEDS = 10
REFERENCE_SUFFIX = "_frozen"


def require_freezable(composed: ComposedClaim, seeds: int) -> None:
    """Raise UserError if a claim cannot be frozen as a reference."""
    if composed.claim.kind not in ("absolute", "curve"):
        raise UserError(f"{composed.name}: a claim of kind {composed.claim.kind} has no single value to freeze")
    if seeds < MIN_SEEDS:
        raise UserError(
            f"{composed.name}: a reference needs at least {MIN_SEEDS} seeds, got {seeds}; set seeds={MIN_SEEDS}"
        )
    if composed.name.endswith(REFERENCE_SUFFIX):
        raise UserError(
            f"{composed.name} is already a reference; freeze {composed.name.removesuffix(REFERENCE_SUFFIX)} instead"
        )


def write_reference(composed: ComposedClaim, values: SeedValues, commit: str) -> Path:
    """Write ``<claim>_frozen.yaml`` beside the claim; return it.

    Raises:
        UserError: fewer than ten seeds have values.
    """
    found = dict(sorted(values[""].items()))
    require_freezable(composed, len(found))
    own = claim_files()[composed.name]
    target = own.with_name(f"{own.stem}{REFERENCE_SUFFIX}.yaml")
    claim: dict[str, object] = {
        "source": {"place": f"{commit or 'no commit'}, {date.today()}", "kind": "internal"},
        "value": None,
        "std": None,
        "n": None,
        "runs": [round(value, 10) for value in found.values()],
        "seeds": list(found),
        "tolerance": None,
        "expect": "REPRODUCED",
    }
    base = str(own.relative_to(EXPERIMENTS).with_suffix(""))
    text = yaml.safe_dump({"defaults": [f"/experiment/{base}@_global_", "_self_"]}, sort_keys=False)
    text += yaml.safe_dump({"claim": claim}, sort_keys=False, default_flow_style=None, width=120)
    target.write_text(f"# @package _global_\n# Written by: touchstone reproduce {base} freeze=true\n{text}")
    return target


def compare_with_reference(composed: ComposedClaim, values: SeedValues) -> str | None:
    """For an internal reference, how many seeds have exactly the same value; None for other claims."""
    claim = composed.claim
    if claim.source.kind != "internal" or len(claim.runs) != len(claim.seeds) or claim.arms:
        return None
    before = dict(zip(claim.seeds, claim.runs, strict=True))
    common = [seed for seed in values[""] if seed in before]
    same = sum(abs(values[""][seed] - before[seed]) <= 1e-9 * max(1.0, abs(before[seed])) for seed in common)
    return f"{same} of {len(common)} seeds have exactly the value of the reference"
