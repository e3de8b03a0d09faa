"""Lottery tickets on MNIST-1D (Greydanus and Kobak 2024, notebooks/lottery-tickets.ipynb): the ticket, random zeros, no zeros."""

import statistics
from collections.abc import Sequence

from benchmarks.compression import QUIET, metrics_of

SEEDS = (42, 43, 44)
# 38 epochs of 40 steps are the notebook's 1501 steps a round; layer by layer, with biases, sparsity in equal steps
NOTEBOOK = (
    *QUIET, "data=mnist1d", "data.order=sequential", "data.batch_size=100", "data.val_fraction=0", "callbacks=last",
    "model=mlp", "model.hidden=[500,500]", "optimizer=adam", "optimizer.lr=2e-2", "trainer.max_epochs=38",
    "compression=lottery_ticket", "compression.stages.prune.rounds=15", "compression.stages.prune.steps=equal",
    "compression.stages.prune.biases=true", "compression.runtimes=[]",
)  # fmt: skip
THEIRS = {(0.92, None): "75.6, 74.4", (0.92, "random"): "60.6, 61.8", (0.8, None): "72.9, 72.1"}


def run(repeats: int) -> None:
    """Print the test accuracy of the last round, by sparsity and control."""
    print(f"\n### lottery tickets (MNIST-1D, MLP 40-500-500-10, 15 rounds, last weights, seeds {SEEDS})\n")
    print(
        "| sparsity | network | test accuracy, % | by seed | the notebook (best on test, seeds 42, 43) |\n|---|---|---|---|---|"
    )
    for sparsity in (0.8, 0.92):
        dense: list[float] = []
        for control in (None, "random"):
            chosen = (
                f"compression.stages.prune.sparsity={sparsity}",
                f"compression.stages.prune.control={control or 'null'}",
            )
            found = [metrics_of(*NOTEBOOK, *chosen, f"seed={seed}") for seed in SEEDS]
            dense = [100 * m["dense/test/accuracy"] for m in found]
            _row(
                sparsity,
                control or "ticket",
                [100 * m["compressed/test/accuracy"] for m in found],
                THEIRS.get((sparsity, control), "–"),
            )
    _row(0.0, "dense", dense, "66.4, 64.8")


def _row(sparsity: float, name: str, values: Sequence[float], theirs: str) -> None:
    each = ", ".join(f"{value:.1f}" for value in values)
    spread = f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
    print(f"| {sparsity:.2f} | {name} | {spread} | {each} | {theirs} |", flush=True)
