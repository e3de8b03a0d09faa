"""The commands of `scripts/reproduce.py`: verdicts, lint, tables and references."""

import sys
from collections.abc import Collection, Mapping

from omegaconf import OmegaConf
from rich.console import Console

from lightning_modules.command_line import message_of
from lightning_modules.errors import UserError
from lightning_modules.reproduction.composed import Composed, compose_claim
from lightning_modules.reproduction.find import USUAL_TIERS, find_claims, tier_of
from lightning_modules.reproduction.freeze import check_freezable
from lightning_modules.reproduction.freeze import freeze as write_reference
from lightning_modules.reproduction.lint import lint as lint_claim
from lightning_modules.reproduction.plan import parts_of, seeds_of
from lightning_modules.reproduction.question import Question
from lightning_modules.reproduction.recorded import claim_row, stored_results, tables
from lightning_modules.reproduction.reproduce import all_expected, chosen, content_of, reproduce
from lightning_modules.reproduction.results import Result, newest, read_results, write_results
from lightning_modules.reproduction.seeds import newest_parent
from lightning_modules.reproduction.table import ClaimRow, rows_to_markdown, rows_to_terminal
from lightning_modules.reproduction.values import values_of
from lightning_modules.reproduction.verdict import judge
from lightning_modules.sweep.children import read_children
from lightning_modules.tracking.between import check_marks, write_between
from lightning_modules.tracking.origin import origin_of
from lightning_modules.tracking.store import open_store


def verdicts(question: Question) -> bool:
    """Run, judge and print the claims; return whether each has an expected verdict."""
    rows = reproduce(question)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 200)  # a file or a pipe has no width
    console.print(rows_to_terminal(rows))
    return all_expected(rows) and len(rows) == len(chosen(question))


def lint(question: Question) -> bool:
    """Print the mistakes of the claims, and missing data hashes; return whether there are no mistakes."""
    mistakes, content = 0, _Content()
    for name in find_claims(question.words):
        found = lint_claim(name, content)
        mistakes += len(found)
        print(f"{name}: {'ok' if not found else f'{len(found)} mistakes'}", flush=True)
        print("".join(f"  {mistake}\n" for mistake in found), end="")
        if any("claim.data: the sha256 of the raw data is missing" in mistake for mistake in found):
            print(f"  data: {_hash_of(name, content)}", flush=True)
    return not mistakes


def _hash_of(name: str, content: "_Content") -> str:
    """The hash of a claim's data, or the error message."""
    try:
        return content(compose_claim(name))
    except UserError as error:
        return str(error)


class _Content:
    """The sha256 of a claim's raw data, cached for claims with the same data."""

    def __init__(self) -> None:
        self._known: dict[str, str | UserError] = {}

    def __call__(self, composed: Composed) -> str:
        key = OmegaConf.to_yaml(composed.cfg.data, resolve=True, sort_keys=True)
        if key not in self._known:
            try:
                self._known[key] = content_of(composed)
            except Exception as error:
                self._known[key] = UserError(f"no data: {message_of(error) or error}")
        found = self._known[key]
        if isinstance(found, UserError):
            raise found
        return found


def table(question: Question) -> bool:
    """Rewrite the tables from the committed and the stored values, judged again.

    Newer values from the store are first written to results.json. All files are checked before the first one is written.
    A file with claims that have no values is left unchanged, unless partial tables are requested.
    """
    every, asked = find_claims(["all"]), set(find_claims(question.words))
    stored = stored_results(open_store(), sorted(asked))
    results = newest(read_results(every), stored)
    if not results:
        raise UserError("no claim has a result yet; run touchstone reproduce all")
    wanted, whole = {}, True
    for file, here in tables(every).items():
        lacking = [name for name in here if name not in results and tier_of(name) in USUAL_TIERS]
        if not any(name in asked and name in results for name in here):
            continue
        if lacking and not question.partial:
            print(
                f"{file} is unchanged: no result for {', '.join(lacking)}; use partial=true to write it without them",
                file=sys.stderr,
            )
            whole = False
            continue
        check_marks(file)
        wanted[file] = [name for name in here if name in results], lacking
    rows = _judged_again(results, {name for names, _ in wanted.values() for name in names})
    for written in write_results({name: results[name] for name in stored if name in results}):
        print(f"written: {written}")
    for file, (names, lacking) in wanted.items():
        text = rows_to_markdown([rows[name] for name in names])
        text += f"\nNo verdict yet: {', '.join(lacking)}.\n" if lacking else ""
        write_between(file, text)
        print(f"written: {file}")
    return whole


def _judged_again(results: Mapping[str, Result], names: Collection[str]) -> dict[str, ClaimRow]:
    """Claim -> its row. Raises UserError with the mistakes of all invalid claims."""
    rows, mistakes = {}, []
    for name in sorted(names):
        try:
            composed = compose_claim(name)
        except UserError as error:
            mistakes += str(error).splitlines()
            continue
        result = results[name]
        judged = judge(composed.claim, result.values_of(composed.claim))
        rows[name] = claim_row(composed, judged, result.seconds, result.origin)
    if mistakes:
        raise UserError("no table written:\n  " + "\n  ".join(mistakes))
    return rows


def freeze(question: Question) -> bool:
    """Judge claims with at least ten seeds, and write their values as references."""
    names = chosen(question)
    composed = [compose_claim(name) for name in names]
    for one in composed:
        check_freezable(one, len(seeds_of(one.claim, question.settings.seeds)))
    reproduce(question)
    store = open_store(composed[0].cfg.tracking.get("uri"))
    for one in composed:
        parent = newest_parent(store, one)
        assert parent is not None
        children = read_children(store, parent.info.run_id)
        parts = parts_of(one.claim, seeds_of(one.claim, question.settings.seeds))
        commit = origin_of(store, [child.run_id for child in children if child.run_id]).commit
        print(f"written: {write_reference(one, values_of(store, one.claim, parts, children), commit)}")
    return True
