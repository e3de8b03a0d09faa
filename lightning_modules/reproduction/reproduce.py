"""Reproduce claims: run what is missing, judge, log and print the verdicts."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lightning_modules.errors import UserError
from lightning_modules.reproduction.claim import Claim, Verdict
from lightning_modules.reproduction.composed import Composed, compose_claim, shown
from lightning_modules.reproduction.find import USUAL_TIERS, find_claims, is_one, tier_of
from lightning_modules.reproduction.freeze import same_as_frozen
from lightning_modules.reproduction.lint import lint_composed
from lightning_modules.reproduction.plan import parts_of, seeds_of
from lightning_modules.reproduction.question import Question
from lightning_modules.reproduction.recorded import claim_row, write_verdict
from lightning_modules.reproduction.results import Result, read_results, results_file
from lightning_modules.reproduction.seeds import newest_parent, run_seeds
from lightning_modules.reproduction.table import ClaimRow
from lightning_modules.reproduction.values import Values, missing, values_of, without_metric
from lightning_modules.reproduction.verdict import judge
from lightning_modules.sweep.children import Child, read_children
from lightning_modules.sweep.drive import AllFailedError
from lightning_modules.sweep.found import BusyError
from lightning_modules.tracking.origin import origin_of
from lightning_modules.tracking.store import Store, open_store


def chosen(question: Question) -> list[str]:
    """The requested claims; for ``all`` and folders, those of the requested tiers.

    Raises:
        UserError: a name is unknown, or no claim is left.
    """
    names = find_claims(question.words)
    alone = {name for word in question.words if is_one(word) for name in find_claims([word])}
    tiers = question.tiers or USUAL_TIERS
    found = [n for n in names if (n in alone and not question.tiers) or tier_of(n) in tiers]
    if not found:
        there = sorted({tier_of(name) for name in names})
        raise UserError(f"none of these claims has tier {', '.join(tiers)}; use tier={','.join(there)}")
    return found


def reproduce(question: Question) -> list[ClaimRow]:
    """Run what is missing of each claim, judge it and return its row. A claim that fails does not stop the others.

    The mistakes of invalid claims are printed first. A claim that another process is running has no row.

    Raises:
        UserError: all claims are invalid.
        Killed: stopped by a signal; the same command resumes.
    """
    composed = _linted(chosen(question))
    if question.overrides:
        composed = [compose_claim(one.name, question.overrides) for one in composed]
    store = open_store(composed[0].cfg.tracking.get("uri"))
    minutes = sum(one.claim.budget.cpu_minutes for one in composed)
    print(f"{len(composed)} claims, about {minutes:.0f} CPU minutes if nothing has been run yet", flush=True)
    return [row for one in composed if (row := _one(one, question, store)) is not None]


def _linted(names: Sequence[str]) -> list[Composed]:
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
    said = f"invalid claims ({len(mistakes)} mistakes):\n  " + "\n  ".join(mistakes)
    if not found:
        raise UserError(said)
    if mistakes:
        print(said, file=sys.stderr, flush=True)
    return found


def _one(composed: Composed, question: Question, store: Store) -> ClaimRow | None:
    seeds = seeds_of(composed.claim, question.settings.seeds)
    print(f"\n── {composed.name}: {composed.claim.paper.title}", flush=True)
    committed = read_results([composed.name]).get(composed.name) if question.judge_only else None
    if committed and len(composed.words) == 2 and newest_parent(store, composed) is None:
        return _from_committed(composed, committed)
    invalid = _other_data(composed)
    if invalid:
        print(invalid, file=sys.stderr)
        return claim_row(composed, judge(composed.claim, _nothing(composed.claim), invalid))
    try:
        parent, failure = _parent(composed, seeds, question, store)
    except BusyError as error:
        print(f"{composed.name}: not judged: {error}; try again when it has finished", file=sys.stderr)
        return None
    if parent is None:
        print(failure, file=sys.stderr)
        return claim_row(composed, judge(composed.claim, _nothing(composed.claim), failure))
    children = read_children(store, parent)
    return _judged(composed, seeds, children, parent, store)


def _parent(composed: Composed, seeds: tuple[int, ...], question: Question, store: Store) -> tuple[str | None, str]:
    """The parent run with its finished children, or why there is none."""
    try:
        if not question.judge_only:
            return run_seeds(composed, seeds, question.settings, store), ""
        found = newest_parent(store, composed)
        return (found.info.run_id, "") if found else (None, f"{composed.name} has no runs in this store")
    except BusyError:
        raise
    except AllFailedError as error:
        print(error, file=sys.stderr)
        parent = newest_parent(store, composed)
        return (parent.info.run_id, "") if parent else (None, str(error))
    except UserError as error:
        return None, str(error)


def _judged(composed: Composed, seeds: tuple[int, ...], children: list[Child], parent: str, store: Store) -> ClaimRow:
    claim = composed.claim
    seeds = seeds_of(claim, max(len(seeds), _known(claim, children)))
    parts = parts_of(claim, seeds)
    values = values_of(store, claim, parts, children)
    other = " ".join(composed.words[2:])
    judged = judge(claim, values, f"run with {other}, which changes the claim's config" if other else None)
    if lacks := without_metric(store, claim.metric, children):
        judged = replace(judged, reason=f"{judged.reason} {lacks}")
    mine = [child for child in children if child.number < len(parts)]
    seconds = sum(child.duration_s or 0.0 for child in mine)
    row = claim_row(composed, judged, seconds, origin_of(store, _ids(mine)))
    write_verdict(store, parent, composed, values, judged, row)
    if lost := missing(values, seeds):
        print(f"no value: {', '.join(lost[:10])}{' …' * (len(lost) > 10)}", file=sys.stderr)
    if same := same_as_frozen(composed, values):
        print(same)
    print(f"{judged.verdict}{'' if row.expected else ' (NOT EXPECTED)'}: {judged.reason}\nrun    {parent}", flush=True)
    return row


def _from_committed(composed: Composed, result: Result) -> ClaimRow:
    """Judge the committed values of a claim that has no runs in the store."""
    judged = judge(composed.claim, result.values_of(composed.claim))
    row = claim_row(composed, judged, result.seconds, result.origin)
    file, kept = shown(results_file(composed.name)), "summary" if result.summary else "values"
    print(f"{judged.verdict}{'' if row.expected else ' (NOT EXPECTED)'}: {judged.reason}\nfrom the {kept} in {file}")
    return row


def _known(claim: Claim, children: Sequence[Child]) -> int:
    """The number of seeds with runs; a request for fewer seeds still uses all of them."""
    each = len(parts_of(claim, (0,)))
    return -(-max((child.number + 1 for child in children), default=0) // each)


def _nothing(claim: Claim) -> Values:
    return {arm: {} for arm in claim.arm_names}


def _ids(children: Sequence[Child]) -> list[str]:
    return [child.run_id for child in children if child.run_id]


def _other_data(composed: Composed) -> str | None:
    """Why the data are not those of the claim, or how to get missing data; None if they match."""
    from lightning_modules.command_line import message_of

    try:
        found = content_of(composed)
    except Exception as error:
        said = message_of(error)
        if said is None:
            raise
        return f"no data: {said}"
    wanted = composed.claim.data
    if wanted and found != wanted:
        return f"data mismatch: the claim expects sha256 {wanted}, the data have {found}"
    return None


def content_of(composed: Composed) -> str:
    """The sha256 of the claim's raw data."""
    from lightning_modules.build import build_data

    data: Any = build_data(composed.cfg)
    return str(data.content_fingerprint())


def all_expected(rows: Sequence[ClaimRow]) -> bool:
    """Whether every verdict is expected by its claim."""
    return all(row.expected and row.verdict != Verdict.INVALID for row in rows)
