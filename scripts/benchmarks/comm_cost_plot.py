"""Plot of the cost model: efficiency over the number of workers, by network and strategy."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.comm_cost_model import LINKS, Job, Link, Plan, efficiency

WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
MARKED = (8, 64, 1024)
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#000000")  # Okabe and Ito's, for all eyes


def draw_scaling(
    path: Path, jobs: Mapping[str, Job], plans: Sequence[Plan], fitted: Link, links: Sequence[Link] = LINKS
) -> None:
    """Plot ``efficiency`` over workers: a row per job, a column per link, the assumptions below."""
    figure = Figure(figsize=(3.1 * len(links), 1.6 + 2.4 * len(jobs)), dpi=110)
    rows = figure.subplots(len(jobs), len(links), sharex=True, sharey=True, squeeze=False)
    for axes, (name, job) in zip(rows, jobs.items(), strict=True):
        for panel, link in zip(axes, links, strict=True):
            _panel(panel, job, plans, link)
        axes[0].set_ylabel(f"{name}\nsamples/s over n times one", fontsize=8.5)
    for top, bottom, link in zip(rows[0], rows[-1], links, strict=True):
        top.set_title(link.name, fontsize=10)
        bottom.set_xlabel("workers")
    handles, labels = rows[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(plans), frameon=False, fontsize=9)
    figure.text(0.01, 0.01, _assumptions(jobs, fitted, links), fontsize=7.5, va="bottom", color="#333333")
    inches = figure.get_figheight()
    figure.subplots_adjust(left=0.06, right=0.99, top=1 - 0.6 / inches, bottom=1.25 / inches, wspace=0.08, hspace=0.12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _panel(panel: Axes, job: Job, plans: Sequence[Plan], link: Link) -> None:
    for plan, color in zip(plans, COLORS, strict=False):
        values = [efficiency(plan, job, link, n) for n in WORKERS]
        panel.plot(WORKERS, values, color=color, lw=1.6, label=plan.name)
        panel.plot(MARKED, [values[WORKERS.index(n)] for n in MARKED], "o", ms=3.5, color=color)
    panel.set_xscale("log", base=2)
    panel.set_xticks(MARKED, [str(n) for n in MARKED])
    panel.set_ylim(0, 1.03)
    panel.grid(alpha=0.25)


def _assumptions(jobs: Mapping[str, Job], fitted: Link, links: Sequence[Link]) -> str:
    told = "; ".join(f"{link.name} {link.alpha_s * 1e6:g} µs, {link.bytes_per_s / 1e9:.3g} GB/s" for link in links)
    work = "; ".join(
        f"{name}: {job.param_bytes / 1e6:.1f} MB in {job.buckets} message(s), {job.compute_s * 1e3:.0f} ms a step"
        for name, job in jobs.items()
    )
    overlap = next(iter(jobs.values())).overlap
    here = f"{fitted.alpha_s * 1e6:.0f} µs, {fitted.bytes_per_s / 1e9:.2g} GB/s"
    return (
        f"A prediction, not a measurement, each worker with a batch of its own. Float32 parameters: {work}.\n"
        f"A message costs latency + bytes / rate (assumed): {told}.\n"
        f"Sums go around one flat ring: 2 (n - 1) messages, 2 (n - 1) / n of the bytes. They hide behind {overlap:.0%} of "
        "the computation (DDP, FSDP2), not for local SGD.\n"
        f"Fitted to gloo on this machine's loopback, for comparison: {here}. No stragglers, no shared switches."
    )
