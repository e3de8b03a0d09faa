"""Arguments of the reproduce command: which claims, how to run them, and further overrides."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RunSettings:
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
class ClaimRequest:
    """A request: claims, tiers (for ``all`` and folders), run settings and further overrides.

    `judge_only` judges existing runs; `partial` also writes tables in which verdicts are missing.
    """

    targets: Sequence[str]
    tiers: Sequence[str] | None = None
    settings: RunSettings = field(default_factory=RunSettings)
    overrides: Sequence[str] = ()
    judge_only: bool = False
    partial: bool = False
