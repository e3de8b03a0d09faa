"""Reproduce claims: run what is missing, judge, log and print the verdicts."""

import sys
from collections.abc import Sequence
from dataclasses import replace

from lightning_modules.config.command_line import format_error
from lightning_modules.config.errors import UserError
from lightning_modules.reproduction.claim import Claim, SeedValues, Verdict
from lightning_modules.reproduction.claim_report import ClaimRow
from lightning_modules.reproduction.claim_runs import (
    claim_runs,
    find_parent_run,
    missing_metric_hint,
    missing_runs,
    read_values,
    run_seeds,
    select_seeds,
)
from lightning_modules.reproduction.committed_results import read_results, results_file
from lightning_modules.reproduction.compose import ComposedClaim, compose_claim, project_path
from lightning_modules.reproduction.discovery import ClaimRequest, select_claims
from lightning_modules.reproduction.lint import lint_composed
from lightning_modules.reproduction.verdict import judge
from lightning_modules.reproduction.verdict_store import log_verdict
from lightning_modules.sweep.controller import AllTrialsFailedError
from lightning_modules.sweep.sweep_command import SweepBusyError
from lightning_modules.sweep.trial_results import TrialResult, read_trial_results
from lightning_modules.tracking.provenance_line import provenance_of
from lightning_modules.tracking.store import Store, open_store


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
    claim, seeds = composed.claim, select_seeds(composed.claim, request.seeds)
    print(f"\n── {composed.name}: {claim.paper.title}", flush=True)
    committed = read_results([composed.name]).get(composed.name) if request.judge_only else None
    if committed and not composed.extra and find_parent_run(store, composed) is None:
        judged = judge(claim, committed.values_for(claim))
        row = ClaimRow(composed.name, claim, judged, committed.seconds, committed.origin)
        kept = "summary" if committed.summary else "values"
        _print_verdict(row, f"from the {kept} in {project_path(results_file(composed.name))}")
        return row
    parent, failure = None, _data_mismatch(composed)
    try:
        if not failure:
            parent, failure = _run_or_find(composed, seeds, request, store)
    except SweepBusyError as error:
        print(f"{composed.name}: not judged: {error}; try again when it has finished", file=sys.stderr)
        return None
    if parent is None:
        print(failure, file=sys.stderr)
        return ClaimRow(composed.name, claim, judge(claim, {arm: {} for arm in claim.arm_names}, failure))
    return _judge_and_record(composed, seeds, parent, store)


def _data_mismatch(composed: ComposedClaim) -> str | None:
    """Why the data are not those of the claim, or how to get missing data; None if they match."""
    try:
        found = data_hash(composed)
    except UserError as error:
        return str(error)
    expected = composed.claim.data
    if expected and found != expected:
        return f"data mismatch: the claim expects sha256 {expected}, the data have {found}"
    return None


def data_hash(composed: ComposedClaim) -> str:
    """The sha256 of the claim's raw data. Raises UserError if they cannot be read, or are another's without a fingerprint."""
    from lightning_modules.run.data_adapter import open_data

    try:
        data = open_data(composed.cfg)
        return data.own.content_fingerprint() if data.own else data.known_fingerprint("a claim")
    except Exception as error:
        if (message := format_error(error)) is None:
            raise
        raise UserError(f"no data: {message}") from error


def _run_or_find(
    composed: ComposedClaim, seeds: tuple[int, ...], request: ClaimRequest, store: Store
) -> tuple[str | None, str | None]:
    """The parent run with its finished children, or why there is none."""
    failure = f"{composed.name} has no runs in this store"
    try:
        if not request.judge_only:
            run_seeds(composed, seeds, store, jobs=request.jobs, retries=request.retries, fresh=request.fresh)
    except SweepBusyError:
        raise
    except AllTrialsFailedError as error:
        failure = str(error)
        print(error, file=sys.stderr)
    except UserError as error:
        return None, str(error)
    found = find_parent_run(store, composed)
    return (found.info.run_id, None) if found else (None, failure)


def _judge_and_record(composed: ComposedClaim, seeds: tuple[int, ...], parent: str, store: Store) -> ClaimRow:
    claim, children = composed.claim, read_trial_results(store, parent)
    seeds = select_seeds(claim, max(len(seeds), _count_started_seeds(claim, children)))
    parts = claim_runs(claim, seeds)
    values = read_values(store, claim, parts, children)
    other = " ".join(composed.extra)
    judged = judge(claim, values, f"run with {other}, which changes the claim's config" if other else None)
    if lacks := missing_metric_hint(store, claim.metric, children):
        judged = replace(judged, reason=f"{judged.reason} {lacks}")
    mine = [child for child in children if child.number < len(parts)]
    seconds = sum(child.duration_s or 0.0 for child in mine)
    origin = provenance_of(store, [child.run_id for child in mine if child.run_id])
    row = ClaimRow(composed.name, claim, judged, seconds, origin)
    log_verdict(store, parent, row, values)
    if lost := missing_runs(values, seeds):
        print(f"no value: {', '.join(lost[:10])}{' …' * (len(lost) > 10)}", file=sys.stderr)
    if same := _compare_with_reference(claim, values):
        print(same)
    _print_verdict(row, f"run    {parent}")
    return row


def _count_started_seeds(claim: Claim, children: Sequence[TrialResult]) -> int:
    """The number of seeds with runs; a request for fewer seeds still uses all of them."""
    each = len(claim_runs(claim, (0,)))
    return -(-max((child.number + 1 for child in children), default=0) // each)


def _compare_with_reference(claim: Claim, values: SeedValues) -> str | None:
    """For an internal reference, how many seeds have exactly the same value; None for other claims."""
    if claim.source.kind != "internal" or len(claim.runs) != len(claim.seeds) or claim.arms:
        return None
    before = dict(zip(claim.seeds, claim.runs, strict=True))
    common = [seed for seed in values[""] if seed in before]
    # 2**-24: earlier versions recorded all digits of a float32, now it is its shortest decimal
    same = sum(abs(values[""][seed] - before[seed]) <= max(1e-9, 2**-24 * abs(before[seed])) for seed in common)
    return f"{same} of {len(common)} seeds have exactly the value of the reference"


def _print_verdict(row: ClaimRow, source: str) -> None:
    surprise = "" if row.expected else " (NOT EXPECTED)"
    print(f"{row.judged.verdict}{surprise}: {row.judged.reason}\n{source}", flush=True)


def all_expected(rows: Sequence[ClaimRow]) -> bool:
    """Whether every verdict is expected by its claim."""
    return all(row.expected and row.judged.verdict != Verdict.INVALID for row in rows)
