"""Claims made by hand: the fields that a test does not name are filled in."""

from typing import Any

from lightning_modules.reproduction.claim import Claim, parse_claim

PAPER = {"title": "A Title", "authors": "A. Author and B. Other", "year": 2024, "link": "https://example.org"}


def make_claim(**fields: Any) -> Claim:
    """A claim of `fields`; an absolute accuracy in % with five seeds unless they say otherwise; None leaves a field out."""
    usual: dict[str, Any] = {
        "paper": PAPER,
        "source": {"place": "table 1", "kind": "paper_table"},
        "metric": "test/accuracy",
        "unit": "%",
        "better": "higher",
        "selection": "last",
        "seeds": [42, 43, 44, 45, 46],
        "expect": "REPRODUCED",
        "budget": {"cpu_minutes": 1, "memory_gb": 1},
        "tier": "cpu",
    }
    claim, mistakes = parse_claim({key: value for key, value in (usual | fields).items() if value is not None})
    assert claim is not None, mistakes
    return claim


def values_by_seed(*values: float) -> dict[int, float]:
    """Values of the seeds 42, 43, …"""
    return dict(enumerate(values, start=42))
