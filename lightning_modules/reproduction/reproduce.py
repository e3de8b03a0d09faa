"""Reproduce claims: run what is missing, judge, log and print the verdicts."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lightning_modules.config.errors import UserError
from lightning_modules.reproduction.claim import Claim, SeedValues, Verdict
from lightning_modules.reproduction.claim_runs import (
    claim_runs,
    missing_metric_hint,
    missing_runs,
    read_values,
    select_seeds,
)
from lightning_modules.reproduction.committed_results import Result, read_results, results_file
from lightning_modules.reproduction.compose import ComposedClaim, compose_claim, project_path
from lightning_modules.reproduction.discovery import DEFAULT_TIERS, find_claims, is_claim_name, tier_of
from lightning_modules.reproduction.freeze import compare_with_reference
from lightning_modules.reproduction.lint import lint_composed
from lightning_modules.reproduction.request import ClaimRequest
from lightning_modules.reproduction.run_seeds import find_parent_run, run_seeds
from lightning_modules.reproduction.verdict import judge
from lightning_modules.reproduction.verdict_store import log_verdict, make_row
from lightning_modules.reproduction.verdict_table import ClaimRow
from lightning_modules.sweep.controller import AllTrialsFailedError
from lightning_modules.sweep.sweep_command import SweepBusyError
from lightning_modules.sweep.trial_results import TrialResult, read_trial_results
from lightning_modules.tracking.provenance_line import provenance_of
from lightning_modules.tracking.store import Store, open_store


def select_claims(request: ClaimRequest) -> list[str]:
    """The requested claims; for ``all`` and folders, those of the requested tiers.

    Raises:
        UserError: a name is unknown, or no claim is left.
    """
    names = find_claims(request.targets)
    alone = {name for target in request.targets if is_claim_name(target) for name in find_claims([target])}
    tiers = request.tiers or DEFAULT_TIERS
    found = [n for n in names if (n in alone and not request.tiers) or tier_of(n) in tiers]
    if not found:
        there = sorted({tier_of(name) for name in names})
        raise UserError(f"none of these claims has tier {', '.join(tiers)}; use tier={','.join(there)}")
    return found


def reproduce(request: ClaimRequest) -> list[ClaimRow]:
    """Run what is missing of each claim, judge it and return its row. A claim that fails does not stop the others.

    The mistakes of invalid claims are printed first. A claim that another process is running has no row.

    Raises:
        UserError: all claims are invalid.
        SignalReceived: stopped by a signal; the same command resumes.
    """
    composed = _compose_valid(select_claims(request))
    if request.overrides:
        composed = [compose_claim(one.name, request.overrides) for one in composed]
    store = open_store(composed[0].cfg.tracking.get("uri"))
    minutes = sum(one.claim.budget.cpu_minutes for one in composed)
    print(f"{len(composed)} claims, about {minutes:.0f} CPU minutes if nothing has been run yet", flush=True)
    return [row for one in composed if (row := _reproduce_claim(one, request, store)) is not None]


def _compose_valid(names: Sequence[str]) -> list[ComposedClaim]:
    """Compose the valid claims and print the mistakes of the others. Raises UserError if none is valid."""
    found, mistakes = [], []
    for name in names:
        try:
            composed = compose_claim(name)
            wrong = lint_composed(composed)
            found += [] if wrong else [composed]
        except UserError as error:
            wrong = str(error).splitlines()
        mistakes += wrong
    message = f"invalid claims ({len(mistakes)} mistakes):\n  " + "\n  ".join(mistakes)
    if not found:
        raise UserError(message)
    if mistakes:
        print(message, file=sys.stderr, flush=True)
    return found


def _reproduce_claim(composed: ComposedClaim, request: ClaimRequest, store: Store) -> ClaimRow | None:
    seeds = select_seeds(composed.claim, request.seeds)
    print(f"\n── {composed.name}: {composed.claim.paper.title}", flush=True)
    committed = read_results([composed.name]).get(composed.name) if request.judge_only else None
    if committed and len(composed.overrides) == 2 and find_parent_run(store, composed) is None:
        return _judge_committed(composed, committed)
    invalid = _data_mismatch(composed)
    if invalid:
        print(invalid, file=sys.stderr)
        return make_row(composed, judge(composed.claim, _no_values(composed.claim), invalid))
    try:
        parent, failure = _run_or_find(composed, seeds, request, store)
    except SweepBusyError as error:
        print(f"{composed.name}: not judged: {error}; try again when it has finished", file=sys.stderr)
        return None
    if parent is None:
        print(failure, file=sys.stderr)
        return make_row(composed, judge(composed.claim, _no_values(composed.claim), failure))
    children = read_trial_results(store, parent)
    return _judge_and_record(composed, seeds, children, parent, store)


def _run_or_find(
    composed: ComposedClaim, seeds: tuple[int, ...], request: ClaimRequest, store: Store
) -> tuple[str | None, str]:
    """The parent run with its finished children, or why there is none."""
    try:
        if not request.judge_only:
            return run_seeds(composed, seeds, request, store), ""
        found = find_parent_run(store, composed)
        return (found.info.run_id, "") if found else (None, f"{composed.name} has no runs in this store")
    except SweepBusyError:
        raise
    except AllTrialsFailedError as error:
        print(error, file=sys.stderr)
        parent = find_parent_run(store, composed)
        return (parent.info.run_id, "") if parent else (None, str(error))
    except UserError as error:
        return None, str(error)


def _judge_and_record(
    composed: ComposedClaim, seeds: tuple[int, ...], children: list[TrialResult], parent: str, store: Store
) -> ClaimRow:
    claim = composed.claim
    seeds = select_seeds(claim, max(len(seeds), _count_started_seeds(claim, children)))
    parts = claim_runs(claim, seeds)
    values = read_values(store, claim, parts, children)
    other = " ".join(composed.overrides[2:])
    judged = judge(claim, values, f"run with {other}, which changes the claim's config" if other else None)
    if lacks := missing_metric_hint(store, claim.metric, children):
        judged = replace(judged, reason=f"{judged.reason} {lacks}")
    mine = [child for child in children if child.number < len(parts)]
    seconds = sum(child.duration_s or 0.0 for child in mine)
    row = make_row(composed, judged, seconds, provenance_of(store, _run_ids(mine)))
    log_verdict(store, parent, composed, values, judged, row)
    if lost := missing_runs(values, seeds):
        print(f"no value: {', '.join(lost[:10])}{' …' * (len(lost) > 10)}", file=sys.stderr)
    if same := compare_with_reference(composed, values):
        print(same)
    print(f"{judged.verdict}{'' if row.expected else ' (NOT EXPECTED)'}: {judged.reason}\nrun    {parent}", flush=True)
    return row


def _judge_committed(composed: ComposedClaim, result: Result) -> ClaimRow:
    """Judge the committed values of a claim that has no runs in the store."""
    judged = judge(composed.claim, result.values_for(composed.claim))
    row = make_row(composed, judged, result.seconds, result.origin)
    file, kept = project_path(results_file(composed.name)), "summary" if result.summary else "values"
    print(f"{judged.verdict}{'' if row.expected else ' (NOT EXPECTED)'}: {judged.reason}\nfrom the {kept} in {file}")
    return row


def _count_started_seeds(claim: Claim, children: Sequence[TrialResult]) -> int:
    """The number of seeds with runs; a request for fewer seeds still uses all of them."""
    each = len(claim_runs(claim, (0,)))
    return -(-max((child.number + 1 for child in children), default=0) // each)


def _no_values(claim: Claim) -> SeedValues:
    return {arm: {} for arm in claim.arm_names}


def _run_ids(children: Sequence[TrialResult]) -> list[str]:
    return [child.run_id for child in children if child.run_id]


def _data_mismatch(composed: ComposedClaim) -> str | None:
    """Why the data are not those of the claim, or how to get missing data; None if they match."""
    from lightning_modules.config.command_line import format_error

    try:
        found = data_hash(composed)
    except Exception as error:
        message = format_error(error)
        if message is None:
            raise
        return f"no data: {message}"
    expected = composed.claim.data
    if expected and found != expected:
        return f"data mismatch: the claim expects sha256 {expected}, the data have {found}"
    return None


def data_hash(composed: ComposedClaim) -> str:
    """The sha256 of the claim's raw data."""
    from lightning_modules.run.build import build_data

    data: Any = build_data(composed.cfg)
    return str(data.content_fingerprint())


def all_expected(rows: Sequence[ClaimRow]) -> bool:
    """Whether every verdict is expected by its claim."""
    return all(row.expected and row.verdict != Verdict.INVALID for row in rows)
