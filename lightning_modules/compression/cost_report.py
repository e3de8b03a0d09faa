"""Compares the network after each stage of a recipe with the dense network: metrics, a table and a plot."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from lightning_modules.compression.container import WriteReport
from lightning_modules.compression.profiling import Timing, is_onnx_model, measure_costs, measure_latencies
from lightning_modules.task.profiling import model_size

TEST_METRICS = ("test/accuracy", "test/rmse", "test/loss")  # the table shows the first that exists
_COSTS = ("size_bytes", "params", "nonzero", "macs", "peak_memory_bytes")
MIN_SPEEDUP = 1.05  # a speed-up below this is reported as none


@dataclass(frozen=True)
class NetworkCosts:
    """The costs of one network: the dense one, or the network after a stage.

    Attributes:
        name: ``dense`` or the stage's name.
        metrics: ``size_bytes``, ``params``, ``nonzero``, ``macs``, ``peak_memory_bytes``, ``test/…``.
        latency: of one sample, by runtime.
        bound_bytes: the entropy bound of the file.
    """

    name: str
    metrics: dict[str, float]
    latency: dict[str, Timing] = field(default_factory=dict)
    bound_bytes: float | None = None

    @property
    def fastest(self) -> float | None:
        """The lowest median latency over the runtimes, in milliseconds."""
        return min((timing.median_ms for timing in self.latency.values()), default=None)


@dataclass
class CostReport:
    """Compares networks with the dense one, in one process.

    Args:
        dense: the dense network, on the CPU.
        x: floats [1, *input_shape].
        tested: the dense network's test metrics; empty if no dense network was trained.
        missing: why the last network or the dense one does not run in a runtime, by ``<side>/<runtime>``.
        other_bytes: of what a file holds beside the network.
    """

    dense: nn.Module
    x: Tensor
    runtimes: tuple[str, ...]
    tested: dict[str, float]
    rows: list[NetworkCosts] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    other_bytes: float = 0

    def __post_init__(self) -> None:
        size = model_size(self.dense)["model/size_bytes"] + self.other_bytes
        self.rows = [NetworkCosts("dense", {"size_bytes": size, **measure_costs(self.dense, self.x), **self.tested})]

    def add(self, name: str, network: nn.Module, written: WriteReport, tested: dict[str, float]) -> NetworkCosts:
        """Measure a network that was loaded back from its file; the dense one is timed again beside it, for a fair ratio."""
        before = self.rows[-1].metrics
        kept = ("params", "nonzero", "macs") if is_onnx_model(network) else ()
        inherited = {key: before[key] for key in kept if key in before}
        metrics = {"size_bytes": float(written.size_bytes), **inherited, **measure_costs(network, self.x), **tested}
        timed = measure_latencies(self.dense, network, self.x, self.runtimes) if self.runtimes else ({}, {}, {})
        theirs, own, self.missing = timed
        self.rows[0] = NetworkCosts("dense", self.rows[0].metrics, theirs)
        self.rows.append(NetworkCosts(name, metrics, own, written.bound_bytes))
        return self.rows[-1]

    # --- what is logged --------------------------------------------------------------------------------------
    def named(self) -> dict[str, float]:
        """The metrics of the dense and of the last network and the gains, by the names under which they are logged."""
        dense, last = self.rows[0], self.rows[-1]
        found = {**_metrics_of("dense", dense), **_metrics_of("compressed", last)}
        found["compression/ratio"] = dense.metrics["size_bytes"] / last.metrics["size_bytes"]
        if last.bound_bytes:
            found["compressed/bound_bytes"] = last.bound_bytes
            found["compression/over_bound"] = last.metrics["size_bytes"] / last.bound_bytes - 1
        if dense.fastest and last.fastest:
            eager = dense.latency.get("eager")
            found["compression/speedup"] = (eager.median_ms if eager else dense.fastest) / last.fastest
            found["compression/speedup_best_runtime"] = dense.fastest / last.fastest
        return found

    def verdict(self) -> str:
        """One sentence on what compression gained in size and speed."""
        gained = self.named()
        text = f"{gained['compression/ratio']:.1f}x smaller than the dense float32 network"
        text += "".join(f"; not timed: {name}: {why}" for name, why in self.missing.items())
        speed = gained.get("compression/speedup_best_runtime")
        if speed is None:
            return text
        best = min(self.rows[0].latency, key=lambda name: self.rows[0].latency[name].median_ms)
        if speed < MIN_SPEEDUP:
            return f"{text}; not faster than the dense network in {best} ({speed:.2f}x)"
        return f"{text}; {speed:.2f}x faster than the dense network in {best}"

    def cells(self, spread: bool) -> tuple[list[str], list[list[str]]]:
        """Header and rows of the table; `spread` adds the quartiles of latencies and writes all digits."""
        runtimes = list(dict.fromkeys(name for row in self.rows for name in row.latency))
        tests = _shown_metric(self.rows[-1].metrics)
        columns = (f"ms, {name.replace('onnxruntime', 'ort')}" for name in runtimes)
        head = ["network", "size", "ratio", "nonzero", "macs", *columns]
        head += [name if spread else name.removeprefix("test/") for name in tests]
        size = self.rows[0].metrics["size_bytes"]
        count: Callable[[float], str] = (lambda value: f"{value:,.0f}") if spread else format_count
        body = []
        for row in self.rows:
            m = row.metrics
            body.append(
                [row.name, count(m["size_bytes"]), f"{size / m['size_bytes']:.1f}x"]
                + [count(m[key]) if key in m else "" for key in ("nonzero", "macs")]
                + [_format_timing(row.latency.get(name), spread) for name in runtimes]
                + [f"{m[key]:.4f}" if key in m else "" for key in tests]
            )
        return head, body


def _shown_metric(metrics: dict[str, float]) -> list[str]:
    """The metric in table and plot: the first of ours that exists, else the last that the task logs."""
    return [name for name in (*TEST_METRICS, *reversed(metrics)) if name in metrics and name not in _COSTS][:1]


def format_count(value: float) -> str:
    """A count with a unit prefix: 431.1k."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f}{unit}"
    return f"{value:.0f}"


def _metrics_of(side: str, row: NetworkCosts) -> dict[str, float]:
    found = {f"{side}/{key}": value for key, value in row.metrics.items()}
    for runtime, timing in row.latency.items():
        found[f"{side}/{runtime}_latency_ms"] = timing.median_ms
    if row.latency:  # the dense network in eager mode, the compressed one in its fastest runtime
        own = row.latency.get("eager") if side == "dense" else None
        found[f"{side}/latency_ms"] = own.median_ms if own else min(t.median_ms for t in row.latency.values())
    return found


def _format_timing(timing: Timing | None, spread: bool) -> str:
    if timing is None:
        return ""
    return f"{timing.median_ms:.3f}" + (f" ({timing.low_ms:.3f}–{timing.high_ms:.3f})" if spread else "")


def plot_costs(rows: Sequence[NetworkCosts], path: Path) -> None:
    """Plot size, latency and the first test metric of every network, one panel each."""
    from lightning_modules.report.figures import blank_figure

    panels: list[tuple[str, list[float | None]]] = [("bytes", [row.metrics["size_bytes"] for row in rows])]
    if any(row.fastest for row in rows):
        panels.append(("latency of one sample, ms (fastest runtime)", [row.fastest for row in rows]))
    for metric in _shown_metric(rows[-1].metrics):
        panels.append((metric, [row.metrics.get(metric) for row in rows]))
    figure = blank_figure(4.2 * len(panels), 0.6 * len(rows) + 1.6)
    names = [row.name for row in rows]
    for axes, (title, values) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        shown = [value if value is not None else 0.0 for value in values]
        colors = ["#9aa5b1", *["#2f6f9f"] * (len(rows) - 1)]
        bars = axes.barh(names, shown, color=colors)
        texts = ["" if v is None else (f"{v:,.0f}" if v >= 1000 else f"{v:.4g}") for v in values]
        axes.bar_label(bars, labels=texts, padding=3, fontsize=9)
        axes.set(title=title, xlim=(0, max(shown) * 1.3 or 1), xticks=[])
        axes.invert_yaxis()
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.title.set_fontsize(10)
    figure.savefig(path, dpi=120)
