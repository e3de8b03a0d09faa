"""How small Deep Compression makes LeNets on Fashion-MNIST, and what that costs in accuracy."""

import statistics
from collections.abc import Sequence

from benchmarks.compression import FASHION, metrics_of, points
from benchmarks.measure import Row, table

SEEDS = 3
NETWORKS = {  # its training, and the bar of the ratio
    "lenet300": (("trainer.max_epochs=12",), 60.0),
    "lenet5": (("trainer.max_epochs=8", "compression.stages.prune.epochs=12"), 50.0),
}


def run(repeats: int) -> None:
    """Gradual pruning to 95 %, shared values, entropy coding; the mean of the seeds counts."""
    for model, (training, bar) in NETWORKS.items():
        recipe = ("compression=deep_compression", "compression.runtimes=[]")
        found = [metrics_of(*FASHION, f"model={model}", *training, *recipe, f"seed={seed}") for seed in range(SEEDS)]
        drops = points(found, "accuracy")
        over = statistics.mean(100 * m["compression/over_bound"] for m in found)
        rows = [
            Row("float32 state dict / file", [m["compression/ratio"] for m in found], bar, True,
                f"{over:.1f} % over the sum of entropies"),
            Row("accuracy, compressed - dense, points", [statistics.mean(drops)], -0.3, True, _told(found, drops)),
        ]  # fmt: skip
        table(f"size of {model} (Fashion-MNIST, deep_compression, {SEEDS} seeds)", rows)


def _told(found: Sequence[dict[str, float]], drops: Sequence[float]) -> str:
    dense = statistics.mean(100 * m["dense/test/accuracy"] for m in found)
    each = ", ".join(f"{drop:+.2f}" for drop in drops)
    return f"mean of {each}; dense {dense:.2f} %, compressed {dense + statistics.mean(drops):.2f} %"
