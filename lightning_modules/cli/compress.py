"""``touchstone compress``: the cheapest compression of a recorded run that keeps its quality."""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge, Gt

from lightning_modules.cli.arguments import verb


@verb(
    "RUN size_ratio=N [KEY=VALUE …]",
    (
        "3e782338 size_ratio=10 max_drop=0.01",
        "3e782338 macs_ratio=2 compression.stages.prune.epochs=20",
        "3e782338 size_ratio=20 sweep.jobs=2 sweep.name=small",
    ),
    {"compression.budget.trials": "trials", "compression.budget.patience": "patience", "init_from": "target"},
)
def main(
    target: Annotated[str, "id, its first 6 or more characters, or name of the run to compress"],
    size_ratio: Annotated[
        float | None, Gt(1), "times smaller: bytes of the float32 weights over bytes of the file"
    ] = None,
    macs_ratio: Annotated[float | None, Gt(1), "times fewer multiply-accumulates; 2: half of them"] = None,
    latency_ratio: Annotated[float | None, Gt(1), "times faster, each network in its fastest runtime"] = None,
    max_drop: Annotated[
        float, Ge(0), "of the monitored metric in validation: 0.01 is a point of accuracy; of a loss, 1 % more"
    ] = 0.01,
    trials: Annotated[int, Ge(1), "maximum number of attempts"] = 12,
    patience: Annotated[int, Ge(1), "attempts without an improvement after which the search ends"] = 3,
    overrides: Annotated[Sequence[str], "any other KEY=VALUE of the stages (compression.…), the sweep or the run"] = (),
) -> object:
    """Search the smallest or fastest compression of a recorded run: channels are removed, weights are pruned and share values,
    until a goal is met and nothing improves. Every attempt is a run; the same command with sweep.name=NAME continues a search."""
    from lightning_modules.compression.budget.compress import compress_run

    ratios = {"size_ratio": size_ratio, "macs_ratio": macs_ratio, "latency_ratio": latency_ratio}
    return {"trials": compress_run(target, ratios, max_drop, trials, patience, list(overrides))}
