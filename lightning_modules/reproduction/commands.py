"""The commands of `touchstone reproduce`: verdicts, lint, tables and references."""

import sys
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from pathlib import Path

import yaml
from omegaconf import OmegaConf

from lightning_modules.config.errors import UserError
from lightning_modules.report.tables import find_section, open_console, replace_section
from lightning_modules.reproduction.claim import SeedValues
from lightning_modules.reproduction.claim_report import ClaimRow, rows_to_markdown, rows_to_terminal
from lightning_modules.reproduction.claim_runs import claim_runs, find_parent_run, read_values, select_seeds
from lightning_modules.reproduction.committed_results import Result, merge_newest, read_results, write_results
from lightning_modules.reproduction.compose import ComposedClaim, compose_claim
from lightning_modules.reproduction.discovery import (
    DEFAULT_TIERS,
    EXPERIMENTS,
    ClaimRequest,
    claim_files,
    find_claims,
    select_claims,
    tier_of,
)
from lightning_modules.reproduction.lint import lint as lint_claim
from lightning_modules.reproduction.reproduce import all_expected, data_hash, reproduce
from lightning_modules.reproduction.verdict import judge
from lightning_modules.reproduction.verdict_store import load_results
from lightning_modules.sweep.trial_results import read_trial_results
from lightning_modules.tracking.provenance_line import provenance_of
from lightning_modules.tracking.store import open_store

MIN_FROZEN_SEEDS = 10
REFERENCE_SUFFIX = "_frozen"


def verdicts(request: ClaimRequest) -> tuple[bool, list[ClaimRow]]:
    """Run, judge and print the claims; return whether each has an expected verdict, and their rows."""
    rows = reproduce(request)
    open_console(min_width=200).print(rows_to_terminal(rows))
    return all_expected(rows) and len(rows) == len(select_claims(request)), rows


def lint(request: ClaimRequest) -> bool:
    """Print the mistakes of the claims; return whether there are none."""
    mistakes, hashes = 0, dict[str, str]()

    def content(composed: ComposedClaim) -> str:  # claims with the same data read them once
        key = OmegaConf.to_yaml(composed.cfg.data, resolve=True, sort_keys=True)
        return hashes.get(key) or hashes.setdefault(key, data_hash(composed))

    for name in find_claims(request.targets):
        found = lint_claim(name, content)
        mistakes += len(found)
        print(f"{name}: {'ok' if not found else f'{len(found)} mistakes'}", flush=True)
        print("".join(f"  {mistake}\n" for mistake in found), end="")
    return not mistakes


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
    for file, here in _table_files(every).items():
        lacking = [name for name in here if name not in results and tier_of(name) in DEFAULT_TIERS]
        if not any(name in asked and name in results for name in here):
            continue
        if lacking and not request.partial:
            hint = "use partial=true to write it without them"
            print(f"{file} is unchanged: no result for {', '.join(lacking)}; {hint}", file=sys.stderr)
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


def _table_files(claims: Sequence[str]) -> dict[Path, list[str]]:
    """File -> the claims in its table: experiments/README.md has all, each experiments/*/README.md those of its folder."""
    files = {EXPERIMENTS / "README.md": list(claims)}
    for name in claims:
        files.setdefault((EXPERIMENTS / name).parent / "README.md", []).append(name)
    return files


def _judge_all(results: Mapping[str, Result], names: Collection[str]) -> dict[str, ClaimRow]:
    """Claim -> its row. Raises UserError with the mistakes of all invalid claims."""
    rows, mistakes = {}, []
    for name in sorted(names):
        try:
            claim, result = compose_claim(name).claim, results[name]
        except UserError as error:
            mistakes += str(error).splitlines()
            continue
        rows[name] = ClaimRow(name, claim, judge(claim, result.values_for(claim)), result.seconds, result.origin)
    if mistakes:
        raise UserError("no table written:\n  " + "\n  ".join(mistakes))
    return rows


def freeze(request: ClaimRequest) -> bool:
    """Write ten or more seeds of each claim as an internal reference, to check later code changes against."""
    composed = [compose_claim(name) for name in select_claims(request)]
    for one in composed:
        _require_freezable(one, len(select_seeds(one.claim, request.seeds)))
    reproduce(request)
    store = open_store(composed[0].cfg.tracking.get("uri"))
    for one in composed:
        parent = find_parent_run(store, one)
        assert parent is not None
        children = read_trial_results(store, parent.info.run_id)
        values = read_values(store, one.claim, claim_runs(one.claim, select_seeds(one.claim, request.seeds)), children)
        commit = provenance_of(store, [child.run_id for child in children if child.run_id]).commit
        print(f"written: {_write_reference(one, values, commit)}")
    return True


def _require_freezable(composed: ComposedClaim, seeds: int) -> None:
    name, kind = composed.name, composed.claim.kind
    if kind not in ("absolute", "curve"):
        raise UserError(f"{name}: a claim of kind {kind} has no single value to freeze")
    if seeds < MIN_FROZEN_SEEDS:
        needed = f"at least {MIN_FROZEN_SEEDS} seeds, got {seeds}; set seeds={MIN_FROZEN_SEEDS}"
        raise UserError(f"{name}: a reference needs {needed}")
    if name.endswith(REFERENCE_SUFFIX):
        raise UserError(f"{name} is already a reference; freeze {name.removesuffix(REFERENCE_SUFFIX)} instead")


def _write_reference(composed: ComposedClaim, values: SeedValues, commit: str) -> Path:
    """Write ``<claim>_frozen.yaml`` beside the claim; return it. Raises UserError if fewer than ten seeds have values."""
    found = dict(sorted(values[""].items()))
    _require_freezable(composed, len(found))
    own = claim_files()[composed.name]
    target = own.with_name(f"{own.stem}{REFERENCE_SUFFIX}.yaml")
    claim: dict[str, object] = {
        "source": {"place": f"{commit or 'no commit'}, {date.today()}", "kind": "internal"},
        **dict.fromkeys(("value", "std", "n")),
        "runs": [round(value, 10) for value in found.values()],
        "seeds": list(found),
        "tolerance": None,
        "expect": "REPRODUCED",
    }
    text = yaml.safe_dump({"defaults": [f"/experiment/{composed.name}@_global_", "_self_"]}, sort_keys=False)
    text += yaml.safe_dump({"claim": claim}, sort_keys=False, default_flow_style=None, width=120)
    target.write_text(f"# @package _global_\n# Written by: touchstone reproduce {composed.name} freeze=true\n{text}")
    return target
