"""Arguments of the reproduce command: which claims, how to run them, and further overrides."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_modules.errors import UserError


@dataclass(frozen=True)
class Settings:
    """How to run claims.

    Attributes:
        seeds: number of seeds; None uses the claim's own.
        jobs: number of parallel runs.
        retries: retries of a failed run.
        fresh: start again, ignoring earlier runs.
    """

    seeds: int | None = None
    jobs: int = 1
    retries: int = 1
    fresh: bool = False


@dataclass(frozen=True)
class Question:
    """A request: claims, tiers (for ``all`` and folders), run settings and further overrides.

    `judge_only` judges existing runs; `partial` also writes tables in which verdicts are missing."""

    words: Sequence[str]
    tiers: Sequence[str] | None = None
    settings: Settings = field(default_factory=Settings)
    overrides: Sequence[str] = ()
    judge_only: bool = False
    partial: bool = False


def parse_words(words: Sequence[str]) -> tuple[list[str], dict[str, str], list[str]]:
    """Split arguments into claim names, settings (``seeds=3 jobs=2 retries=0 fresh=true``) and overrides."""
    names = [word for word in words if "=" not in word]
    pairs = [word for word in words if "=" in word]
    own = {k: v for k, _, v in (word.partition("=") for word in pairs) if k in ("seeds", "jobs", "retries", "fresh")}
    return names, own, [word for word in pairs if word.partition("=")[0] not in own]


def settings_of(own: dict[str, str]) -> Settings:
    """Parse the settings. Raises UserError for an invalid value."""
    found: dict[str, Any] = {}
    for key, least in (("seeds", 1), ("jobs", 1), ("retries", 0)):
        if key in own:
            if not re.fullmatch(r"\d+", own[key]) or int(own[key]) < least:
                raise UserError(f"{key}={own[key]}: expected an integer of at least {least}")
            found[key] = int(own[key])
    if "fresh" in own:
        if own["fresh"] not in ("true", "false"):
            raise UserError(f"fresh={own['fresh']}: expected true or false")
        found["fresh"] = own["fresh"] == "true"
    return Settings(**found)
