"""``touchstone reproduce``: papers' results, run over seeds and judged."""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge

from lightning_modules.cli.arguments import verb
from lightning_modules.cli.json_output import NotAsExpected
from lightning_modules.config.errors import UserError


@verb(
    "CLAIM… | FOLDER… | all [KEY=VALUE …]",
    ("mnist1d/cnn", "mnist1d seeds=3 sweep.jobs=2", "all tier=ci,cpu", "all table=true"),
    {"jobs": "sweep.jobs", "retries": "sweep.retries"},
)
def main(
    targets: Annotated[list[str], "claims, folders of experiments/, or all"],
    tier: Annotated[list[str] | None, "ci, cpu, gpu, cluster (default for folders and all: ci,cpu)"] = None,
    seeds: Annotated[int | None, Ge(1), "number of seeds (default: the claim's)"] = None,
    sweep__jobs: Annotated[int, Ge(1), "runs at a time"] = 1,
    sweep__retries: Annotated[int, Ge(0), "retries of a run that failed"] = 1,
    fresh: Annotated[bool, "start from scratch, whatever the store holds"] = False,
    judge: Annotated[bool, "judge what is in the store, run nothing"] = False,
    lint: Annotated[bool, "only check the claims"] = False,
    table: Annotated[bool, "only rewrite the tables of the READMEs from the store"] = False,
    partial: Annotated[bool, "with table=true: also where claims have no verdict yet"] = False,
    freeze: Annotated[bool, "write ten seeds or more as an internal reference"] = False,
    overrides: Annotated[Sequence[str], "any other KEY=VALUE makes a trial that is INVALID as a verdict"] = (),
) -> list[dict[str, object]]:
    """Run all seeds of claims, and test ours against the paper's. What is known already is not run again; the same command
    continues one that was interrupted."""
    chosen = [name for name, wanted in (("lint", lint), ("table", table), ("freeze", freeze)) if wanted]
    if len(chosen) > 1:
        raise UserError(f"{' and '.join(f'{name}=true' for name in chosen)} exclude each other; choose one")
    from lightning_modules.reproduction import commands
    from lightning_modules.reproduction.discovery import ClaimRequest

    request = ClaimRequest(
        targets=targets,
        tiers=tier,
        overrides=list(overrides),
        seeds=seeds,
        jobs=sweep__jobs,
        retries=sweep__retries,
        fresh=fresh,
        judge_only=judge,
        partial=partial,
    )
    is_good, rows = (getattr(commands, chosen[0])(request), []) if chosen else commands.verdicts(request)
    result = [{"claim": row.claim_id, "verdict": row.judged.verdict, "expected": row.expected} for row in rows]
    if not is_good:
        raise NotAsExpected(result)
    return result
