"""Arguments of the reproduce command."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ClaimRequest:
    """Which claims to judge, and how to run them.

    Attributes:
        targets: claims, folders, or ``all``.
        tiers: of ``all`` and of folders; None is the default tiers.
        overrides: further overrides of the claims' configs, which make the verdict INVALID.
        seeds: number of seeds; None uses the claim's own.
        jobs: number of parallel runs.
        retries: retries of a failed run.
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
