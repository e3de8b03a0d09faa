"""What a command asks: which claims, how their runs go, and what is otherwise in their config."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_modules.errors import UserError


@dataclass(frozen=True)
class Settings:
    """How the runs of claims go.

    Attributes:
        seeds: how many; None: those of the claim.
        jobs: runs at a time.
        retries: of a run that failed.
        fresh: begin anew, whatever the store holds.
    """

    seeds: int | None = None
    jobs: int = 1
    retries: int = 1
    fresh: bool = False


@dataclass(frozen=True)
class Question:
    """What is asked: claims, tiers (of ``all`` and of folders), settings of the runs, further overrides; and
    whether to judge what is there, and to write tables that lack verdicts."""

    words: Sequence[str]
    tiers: Sequence[str] | None = None
    settings: Settings = field(default_factory=Settings)
    overrides: Sequence[str] = ()
    judge_only: bool = False
    partial: bool = False


def parse_words(words: Sequence[str]) -> tuple[list[str], dict[str, str], list[str]]:
    """Names, settings (``seeds=3 jobs=2 retries=0 fresh=true``) and further overrides of a command."""
    names = [word for word in words if "=" not in word]
    pairs = [word for word in words if "=" in word]
    own = {k: v for k, _, v in (word.partition("=") for word in pairs) if k in ("seeds", "jobs", "retries", "fresh")}
    return names, own, [word for word in pairs if word.partition("=")[0] not in own]


def settings_of(own: dict[str, str]) -> Settings:
    """Raises UserError where a number is none."""
    found: dict[str, Any] = {}
    for key, least in (("seeds", 1), ("jobs", 1), ("retries", 0)):
        if key in own:
            if not re.fullmatch(r"\d+", own[key]) or int(own[key]) < least:
                raise UserError(f"{key}={own[key]}: a whole number of at least {least} is wanted")
            found[key] = int(own[key])
    if "fresh" in own:
        if own["fresh"] not in ("true", "false"):
            raise UserError(f"fresh={own['fresh']}: it can be: false, true")
        found["fresh"] = own["fresh"] == "true"
    return Settings(**found)
