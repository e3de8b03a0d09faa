"""Discovery and selection of claims: every experiment with a node `claim`, named by its path below experiments/."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_modules.config.errors import UserError, did_you_mean, suggest
from lightning_modules.config.project import CONF, project_folder

_PLACES = ((project_folder() or CONF.parent) / "conf" / "experiment", CONF / "experiment")
# resolved, as conf/experiment of a checkout is a symbolic link to experiments/
EXPERIMENTS = next((path for path in _PLACES if path.is_dir()), _PLACES[-1]).resolve()
DEFAULT_TIERS = ("ci", "cpu")  # for `all` and folders, if no tier is given


def claim_files(folder: Path = EXPERIMENTS) -> dict[str, Path]:
    """Claim -> its file, sorted by name. ``base.yaml`` and ``base_….yaml`` are included by others and are not claims."""
    return {
        str(path.relative_to(folder).with_suffix("")): path
        for path in sorted(folder.rglob("*.yaml"))
        if not is_base_file(path)
        and any(re.search(r"^claim:", _read_text(part), re.MULTILINE) for part in file_and_bases(path))
    }


def tier_of(name: str, folder: Path = EXPERIMENTS) -> str:
    """The tier in a claim's file or its base files, read without composing the config."""
    for path in file_and_bases(folder / f"{name}.yaml"):
        if found := re.search(r"^  tier: *(\w+)", _read_text(path), re.MULTILINE):
            return found[1]
    return DEFAULT_TIERS[0]  # so that its mistakes are reported


def is_base_file(path: Path) -> bool:
    """Whether a file of experiments/ is only included by others."""
    return path.stem == "base" or path.stem.startswith("base_")


def _read_text(path: Path) -> str:
    """A file's text. Invalid UTF-8 is replaced here and reported when the claim is composed."""
    return path.read_text(encoding="utf-8", errors="replace")


def file_and_bases(path: Path, known: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """A file of experiments/ and the base files beside it that it names, recursively."""
    yield path
    text = _read_text(path)
    known |= {path}
    for base in sorted(path.parent.glob("base*.yaml")):
        if base not in known and is_base_file(base) and re.search(rf"\b{base.stem}\b", text):
            yield from file_and_bases(base, known)


def find_claims(targets: Sequence[str], folder: Path = EXPERIMENTS) -> list[str]:
    """The claims named by `targets` (``all``, a folder or a claim), without duplicates, in order.

    Raises:
        UserError: a target matches nothing; the message lists similar names.
    """
    known = list(claim_files(folder))
    found: dict[str, None] = {}
    mistakes = []
    for target in targets:
        name = _claim_name(target)
        these = [claim for claim in known if name in ("all", claim) or claim.startswith(f"{name}/")]
        if not these:
            folders = {*(claim.rpartition("/")[0] for claim in known), "all"}
            inside = {claim for claim in known if claim.partition("/")[0] == name.partition("/")[0]}
            near = did_you_mean(name, {*known, *folders})
            mistakes.append(f"{target}: no such claim; {near or suggest(name, inside or folders)}")
        found |= dict.fromkeys(these)
    if mistakes:
        raise UserError("\n".join(mistakes))
    return list(found)


def _claim_name(target: str) -> str:
    return target.strip("/").removeprefix("experiments/").removesuffix(".yaml")


@dataclass(frozen=True)
class ClaimRequest:
    """Which claims to judge, and how to run them.

    Attributes:
        targets: claims, folders, or ``all``.
        tiers: of ``all`` and of folders; None is the default tiers.
        overrides: further overrides of the claims' configs, which make the verdict INVALID.
        seeds: number of seeds; None uses the claim's own.
        jobs: number of parallel runs.
        retries: of a failed run.
        fresh: start again, ignoring earlier runs.
        judge_only: judge existing runs, run nothing.
        partial: also write tables in which verdicts are missing.
    """

    targets: Sequence[str]
    tiers: Sequence[str] | None = None
    overrides: Sequence[str] = ()
    seeds: int | None = None
    jobs: int = 1
    retries: int = 1
    fresh: bool = False
    judge_only: bool = False
    partial: bool = False


def select_claims(request: ClaimRequest) -> list[str]:
    """The requested claims; for ``all`` and folders, those of the requested tiers.

    Raises:
        UserError: a name is unknown, or no claim is left.
    """
    names = find_claims(request.targets)
    alone = {_claim_name(target) for target in request.targets}
    tiers = request.tiers or DEFAULT_TIERS
    found = [n for n in names if (n in alone and not request.tiers) or tier_of(n) in tiers]
    if not found:
        there = sorted({tier_of(name) for name in names})
        raise UserError(f"none of these claims has tier {', '.join(tiers)}; use tier={','.join(there)}")
    return found
