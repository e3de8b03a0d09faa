"""Runs of a sweep that the tests of comparisons write into a store."""

import json
from collections.abc import Callable
from typing import Any

Make = Callable[..., str]
Ask = Callable[..., Any]


def child(add: Make, parent: str, number: int, swept: dict[str, Any], value: float, **more: Any) -> str:
    tags = {"mlflow.parentRunId": parent, "sweep.trial": str(number), "sweep.params": json.dumps(swept)}
    metrics = more.pop("metrics", {"test/accuracy": value})
    return add(swept, metrics, name=f"trial {number}", **tags, **more)


def two_models(add: Make, parent: str, seeds: int, gain: float = 0.1) -> None:
    for seed in range(seeds):
        for model, more in (("mlp", 0.0), ("convnet", gain)):
            child(
                add, parent, seed, {"model": model, "seed": seed}, 0.1 * seed + more + 0.001 * (seed % 3) * bool(more)
            )


def caveats_text(comparison: Any) -> str:
    return "\n".join(comparison.notes)
