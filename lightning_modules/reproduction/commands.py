"""The commands of `scripts/reproduce.py`: verdicts, lint, tables and references."""

import sys
from collections.abc import Collection, Mapping

from omegaconf import OmegaConf

from lightning_modules.config.command_line import format_error
from lightning_modules.config.errors import UserError
from lightning_modules.report.markdown_section import find_section, replace_section
from lightning_modules.report.tables import open_console
from lightning_modules.reproduction.claim_runs import claim_runs, read_values, select_seeds
from lightning_modules.reproduction.committed_results import Result, merge_newest, read_results, write_results
from lightning_modules.reproduction.compose import ComposedClaim, compose_claim
from lightning_modules.reproduction.discovery import DEFAULT_TIERS, find_claims, tier_of
from lightning_modules.reproduction.freeze import require_freezable, write_reference
from lightning_modules.reproduction.lint import lint as lint_claim
from lightning_modules.reproduction.reproduce import all_expected, data_hash, reproduce, select_claims
from lightning_modules.reproduction.request import ClaimRequest
from lightning_modules.reproduction.run_seeds import find_parent_run
from lightning_modules.reproduction.verdict import judge
from lightning_modules.reproduction.verdict_store import load_results, make_row, table_files
from lightning_modules.reproduction.verdict_table import ClaimRow, rows_to_markdown, rows_to_terminal
from lightning_modules.sweep.trial_results import read_trial_results
from lightning_modules.tracking.provenance_line import provenance_of
from lightning_modules.tracking.store import open_store


def verdicts(request: ClaimRequest) -> bool:
    """Run, judge and print the claims; return whether each has an expected verdict."""
    rows = reproduce(request)
    open_console(min_width=200).print(rows_to_terminal(rows))
    return all_expected(rows) and len(rows) == len(select_claims(request))


def lint(request: ClaimRequest) -> bool:
    """Print the mistakes of the claims; return whether there are none."""
    mistakes, content = 0, _DataHashCache()
    for name in find_claims(request.targets):
        found = lint_claim(name, content)
        mistakes += len(found)
        print(f"{name}: {'ok' if not found else f'{len(found)} mistakes'}", flush=True)
        print("".join(f"  {mistake}\n" for mistake in found), end="")
    return not mistakes


class _DataHashCache:
    """The sha256 of a claim's raw data, cached for claims with the same data."""

    def __init__(self) -> None:
        self._known: dict[str, str | UserError] = {}

    def __call__(self, composed: ComposedClaim) -> str:
        key = OmegaConf.to_yaml(composed.cfg.data, resolve=True, sort_keys=True)
        if key not in self._known:
            try:
                self._known[key] = data_hash(composed)
            except Exception as error:
                self._known[key] = UserError(f"no data: {format_error(error) or error}")
        found = self._known[key]
        if isinstance(found, UserError):
            raise found
        return found


def table(request: ClaimRequest) -> bool:
    """Rewrite the tables from the committed and the stored values, judged again.

    Newer values from the store are first written to results.json. All files are checked before the first one is written.
    A file with claims that have no values is left unchanged, unless partial tables are requested.
    """
    every, asked = find_claims(["all"]), set(find_claims(request.targets))
    stored = load_results(open_store(), sorted(asked))
    results = merge_newest(read_results(every), stored)
    if not results:
        raise UserError("no claim has a result yet; run touchstone reproduce all")
    sections, is_complete = {}, True
    for file, here in table_files(every).items():
        lacking = [name for name in here if name not in results and tier_of(name) in DEFAULT_TIERS]
        if not any(name in asked and name in results for name in here):
            continue
        if lacking and not request.partial:
            print(
                f"{file} is unchanged: no result for {', '.join(lacking)}; use partial=true to write it without them",
                file=sys.stderr,
            )
            is_complete = False
            continue
        find_section(file)
        sections[file] = [name for name in here if name in results], lacking
    rows = _judge_all(results, {name for names, _ in sections.values() for name in names})
    for written in write_results({name: results[name] for name in stored if name in results}):
        print(f"written: {written}")
    for file, (names, lacking) in sections.items():
        text = rows_to_markdown([rows[name] for name in names])
        text += f"\nNo verdict yet: {', '.join(lacking)}.\n" if lacking else ""
        replace_section(file, text)
        print(f"written: {file}")
    return is_complete


def _judge_all(results: Mapping[str, Result], names: Collection[str]) -> dict[str, ClaimRow]:
    """Claim -> its row. Raises UserError with the mistakes of all invalid claims."""
    rows, mistakes = {}, []
    for name in sorted(names):
        try:
            composed = compose_claim(name)
        except UserError as error:
            mistakes += str(error).splitlines()
            continue
        result = results[name]
        judged = judge(composed.claim, result.values_for(composed.claim))
        rows[name] = make_row(composed, judged, result.seconds, result.origin)
    if mistakes:
        raise UserError("no table written:\n  " + "\n  ".join(mistakes))
    return rows


def freeze(request: ClaimRequest) -> bool:
    """Judge claims with at least ten seeds, and write their values as references."""
    names = select_claims(request)
    composed = [compose_claim(name) for name in names]
    for one in composed:
        require_freezable(one, len(select_seeds(one.claim, request.seeds)))
    reproduce(request)
    store = open_store(composed[0].cfg.tracking.get("uri"))
    for one in composed:
        parent = find_parent_run(store, one)
        assert parent is not None
        children = read_trial_results(store, parent.info.run_id)
        parts = claim_runs(one.claim, select_seeds(one.claim, request.seeds))
        commit = provenance_of(store, [child.run_id for child in children if child.run_id]).commit
        print(f"written: {write_reference(one, read_values(store, one.claim, parts, children), commit)}")
    return True
