"""What `scripts/reproduce.py` does: verdicts, and beside them lint, tables and references."""

import sys

from rich.console import Console

from lightning_modules.errors import UserError
from lightning_modules.reproduction.composed import compose_claim
from lightning_modules.reproduction.find import USUAL_TIERS, find_claims, tier_of
from lightning_modules.reproduction.freeze import check_freezable
from lightning_modules.reproduction.freeze import freeze as write_reference
from lightning_modules.reproduction.lint import lint as lint_claim
from lightning_modules.reproduction.plan import parts_of, seeds_of
from lightning_modules.reproduction.question import Question
from lightning_modules.reproduction.recorded import read_rows, tables
from lightning_modules.reproduction.reproduce import all_expected, chosen, content_of, reproduce
from lightning_modules.reproduction.seeds import newest_parent
from lightning_modules.reproduction.table import rows_to_markdown, rows_to_terminal
from lightning_modules.reproduction.values import values_of
from lightning_modules.sweep.children import read_children
from lightning_modules.tracking.between import write_between
from lightning_modules.tracking.origin import origin_of
from lightning_modules.tracking.store import open_store


def verdicts(question: Question) -> bool:
    """Run, judge and print; whether every verdict is an expected one."""
    rows = reproduce(question)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 200)  # a file or a pipe has no edge
    console.print(rows_to_terminal(rows))
    return all_expected(rows)


def lint(question: Question) -> bool:
    """Print the mistakes of the claims, and the hash of their data; whether there are none."""
    mistakes = 0
    for name in find_claims(question.words):
        found = lint_claim(name)
        mistakes += len(found)
        print(f"{name}: {'ok' if not found else f'{len(found)} mistakes'}", flush=True)
        print("".join(f"  {mistake}\n" for mistake in found), end="")
        if any("claim.data: " in mistake for mistake in found):
            print(f"  data: {_content(name)}", flush=True)
    return not mistakes


def _content(name: str) -> str:
    """The hash of a claim's data, or why there is none."""
    try:
        return content_of(compose_claim(name))
    except UserError as error:
        return str(error)


def table(question: Question) -> bool:
    """Rewrite the tables from the store; a file of which a claim has no verdict yet stays as it is, and is told of."""
    rows = read_rows(open_store(), find_claims(["all"]))
    names = find_claims(question.words)
    whole = True
    for file, here in tables(find_claims(["all"])).items():
        known = [name for name in here if name in rows]
        lacking = [name for name in here if name not in rows and tier_of(name) in USUAL_TIERS]
        if not any(name in names for name in known):
            continue
        if lacking and not question.partial:
            told = f"{', '.join(lacking)}; --partial writes it without them"
            print(f"{file} stays as it is: the store has no verdict of {told}", file=sys.stderr)
            whole = False
            continue
        text = rows_to_markdown([rows[name] for name in known])
        text += f"\nWithout a verdict as yet: {', '.join(lacking)}.\n" if lacking else ""
        write_between(file, text)
        print(f"written: {file}")
    if not rows:
        raise UserError("the store has no verdict: python scripts/reproduce.py all")
    return whole


def freeze(question: Question) -> bool:
    """Judge claims with ten seeds or more, and write their values as references."""
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
