"""Which claims there are: every experiment with a node `claim`, named by its path below experiments/."""

import re
from collections.abc import Sequence
from pathlib import Path

from lightning_modules.command_line import PROJECT_ROOT
from lightning_modules.errors import UserError, nearest

EXPERIMENTS = PROJECT_ROOT / "experiments"
USUAL_TIERS = ("ci", "cpu")  # of `all` and of a folder, where no tier is named


def claim_files(folder: Path = EXPERIMENTS) -> dict[str, Path]:
    """Claim -> its file, in the order of their names; ``base.yaml`` and ``base_….yaml`` are parts of others."""
    return {
        str(path.relative_to(folder).with_suffix("")): path
        for path in sorted(folder.rglob("*.yaml"))
        if not is_base(path) and _claims(path)
    }


def tier_of(name: str, folder: Path = EXPERIMENTS) -> str:
    """The tier of a claim as its file says it, or a base file beside it: choosing claims composes none of them."""
    own = folder / f"{name}.yaml"
    text = own.read_text(encoding="utf-8")
    bases = [base for base in sorted(own.parent.glob("base*.yaml")) if re.search(rf"\b{base.stem}\b", text)]
    for content in (text, *(base.read_text(encoding="utf-8") for base in filter(is_base, bases))):
        if found := re.search(r"^  tier: *(\w+)", content, re.MULTILINE):
            return found[1]
    return USUAL_TIERS[0]  # its mistakes are told of


def is_base(path: Path) -> bool:
    """Whether a file of experiments/ is a part of others."""
    return path.stem == "base" or path.stem.startswith("base_")


def _claims(path: Path) -> bool:
    """Whether a file has the node `claim`, or takes it over from a base file beside it."""
    text = path.read_text(encoding="utf-8")
    if re.search(r"^claim:", text, re.MULTILINE):
        return True
    taken = [base for base in path.parent.glob("base*.yaml") if is_base(base) and re.search(rf"\b{base.stem}\b", text)]
    return any(re.search(r"^claim:", base.read_text(encoding="utf-8"), re.MULTILINE) for base in taken)


def find_claims(words: Sequence[str], folder: Path = EXPERIMENTS) -> list[str]:
    """The claims that `words` name: ``all``, a folder, or a claim; each once, in order.

    Raises:
        UserError: for words that name nothing, with the nearest names.
    """
    known = list(claim_files(folder))
    found: dict[str, None] = {}
    mistakes = []
    for word in words:
        name = word.strip("/").removeprefix("experiments/").removesuffix(".yaml")
        these = [claim for claim in known if name in ("all", claim) or claim.startswith(f"{name}/")]
        if not these:
            folders = {*(claim.rpartition("/")[0] for claim in known), "all"}
            inside = {claim for claim in known if claim.partition("/")[0] == name.partition("/")[0]}
            near = nearest(name, {*known, *folders})
            mistakes.append(
                f"{word}: there is no such claim; {near if 'did you' in near else nearest(name, inside or folders)}"
            )
        found |= dict.fromkeys(these)
    if mistakes:
        raise UserError("\n".join(mistakes))
    return list(found)


def is_one(word: str, folder: Path = EXPERIMENTS) -> bool:
    """Whether a word names a single claim."""
    return word.strip("/").removeprefix("experiments/").removesuffix(".yaml") in claim_files(folder)
