"""The cost model as a picture: how efficiency falls with the number of workers, by network and strategy."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_modules.strategy.cost_model import LINKS, Job, Link, Plan, efficiency

WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
MARKED = (8, 64, 1024)
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#000000")  # Okabe and Ito's, for all eyes


def draw_scaling(path: Path, job: Job, plans: Sequence[Plan], fitted: Link, links: Sequence[Link] = LINKS) -> None:
    """Write a picture of ``efficiency`` over workers, one panel a link, with what is assumed below it."""
    figure = Figure(figsize=(3.1 * len(links), 4.4), dpi=110)
    axes = figure.subplots(1, len(links), sharey=True, squeeze=False)[0]
    for panel, link in zip(axes, links, strict=True):
        _panel(panel, job, plans, link)
    axes[0].set_ylabel("samples/s over n times one worker")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(plans), frameon=False, fontsize=9)
    figure.text(0.01, 0.015, _assumptions(job, fitted, links), fontsize=7.5, va="bottom", color="#333333")
    figure.subplots_adjust(left=0.06, right=0.99, top=0.84, bottom=0.34, wspace=0.08)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _panel(panel: Axes, job: Job, plans: Sequence[Plan], link: Link) -> None:
    for plan, color in zip(plans, COLORS, strict=False):
        values = [efficiency(plan, job, link, n) for n in WORKERS]
        panel.plot(WORKERS, values, color=color, lw=1.6, label=plan.name)
        panel.plot(MARKED, [values[WORKERS.index(n)] for n in MARKED], "o", ms=3.5, color=color)
    panel.set_title(link.name, fontsize=10)
    panel.set_xscale("log", base=2)
    panel.set_xticks(MARKED, [str(n) for n in MARKED])
    panel.set_xlabel("workers")
    panel.set_ylim(0, 1.03)
    panel.grid(alpha=0.25)


def _assumptions(job: Job, fitted: Link, links: Sequence[Link]) -> str:
    told = "; ".join(f"{link.name} {link.alpha_s * 1e6:g} µs, {link.bytes_per_s / 1e9:.3g} GB/s" for link in links)
    here = f"{fitted.alpha_s * 1e6:.0f} µs, {fitted.bytes_per_s / 1e9:.2g} GB/s"
    return (
        f"A prediction, not a measurement: {job.param_bytes / 1e6:.1f} MB of float32 parameters, {job.compute_s * 1e3:.0f} ms "
        f"a step of one worker (measured), own batch for each worker, {job.buckets} message(s) a step.\n"
        f"A message costs latency + bytes / rate (assumed): {told}.\n"
        f"Sums go around one flat ring: 2 (n - 1) messages, 2 (n - 1) / n of the bytes. They hide behind {job.overlap:.0%} of "
        "the computation (DDP, FSDP2), not for local SGD.\n"
        f"Fitted to gloo on this machine's loopback, for comparison: {here}. No stragglers, no shared switches."
    )
