"""The cost model against slowed loopbacks: what it predicts for DDP there, and what a step takes."""

import statistics

from benchmarks.comm import LOOP, MODELS, fitted, measures, parameter_bytes
from benchmarks.comm_turn import turn
from benchmarks.measure import Row, table

RATES = ("1gbit", "100mbit")


def run(repeats: int) -> None:
    """Slow a loopback of its own (root, ``ip`` and ``tc`` with tbf are needed), fit the link, predict, measure."""
    from benchmarks.comm_cost_model import Job, plans, step_seconds

    words = [*MODELS["cnn"], *LOOP]
    size, known = parameter_bytes(MODELS["cnn"]), {plan.name: plan for plan in plans()}
    works = {name: measure.args[0] for name, measure in measures(words).items()}  # type: ignore[attr-defined]
    compute = statistics.median(turn(works["ddp"]).seconds for _ in range(repeats))  # on the quick loopback
    rows = []
    for rate in RATES:
        link = fitted(rate)
        for name in ("ddp", "ddp_fp16", "local_sgd"):
            if name in works:
                predicted = step_seconds(known[name], Job(size, compute, overlap=0.0), link, 2)
                measured = [turn(works[name], rate).seconds for _ in range(repeats)]
                note = f"predicted {predicted * 1e3:.0f} ms, link {link.alpha_s * 1e6:.0f} µs, {link.bytes_per_s / 1e6:.1f} MB/s"
                rows.append(
                    Row(f"{rate}, {name}: measured / predicted", [m / predicted for m in measured], None, note=note)
                )
    table("the cost model on slowed loopbacks (no overlap assumed: upper bounds)", rows)
