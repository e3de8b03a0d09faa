"""Discovery of claims: every experiment with a node `claim`, named by its path below experiments/."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from lightning_modules.config.errors import UserError, did_you_mean, suggest
from lightning_modules.config.project import PROJECT_ROOT

EXPERIMENTS = PROJECT_ROOT / "experiments"
DEFAULT_TIERS = ("ci", "cpu")  # for `all` and folders, if no tier is given


def claim_files(folder: Path = EXPERIMENTS) -> dict[str, Path]:
    """Claim -> its file, sorted by name. ``base.yaml`` and ``base_….yaml`` are included by others and are not claims."""
    return {
        str(path.relative_to(folder).with_suffix("")): path
        for path in sorted(folder.rglob("*.yaml"))
        if not is_base_file(path) and _has_claim(path)
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


def _has_claim(path: Path) -> bool:
    """Whether a file, or one of its base files, has the node `claim`."""
    return any(re.search(r"^claim:", _read_text(part), re.MULTILINE) for part in file_and_bases(path))


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


def is_claim_name(target: str, folder: Path = EXPERIMENTS) -> bool:
    """Whether a target is a single claim."""
    return _claim_name(target) in claim_files(folder)


def _claim_name(target: str) -> str:
    return target.strip("/").removeprefix("experiments/").removesuffix(".yaml")
