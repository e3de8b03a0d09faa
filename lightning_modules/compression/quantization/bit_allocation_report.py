"""Table and plot of the bits allocated to each layer and of the costs they are based on."""

import csv
from collections.abc import Mapping
from pathlib import Path

from lightning_modules.compression.quantization.bit_allocation import SensitivityTable
from lightning_modules.report.figures import COLOURS, INK, blank_figure, style_axes


def write_bit_report(
    folder: Path, name: str, table: SensitivityTable, chosen: Mapping[str, int], kept: Mapping[str, int]
) -> None:
    """Write ``<name>-bits.csv`` (weight, entries kept, bits, cost at each width) and ``<name>-bits.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    widths = sorted({bits for costs in table.values() for bits in costs})
    with (folder / f"{name}-bits.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["weight", "kept", "bits", *(f"cost_{bits}" for bits in widths)])
        for weight, costs in table.items():
            writer.writerow([weight, kept[weight], chosen[weight], *(f"{costs[bits]:.6g}" for bits in widths)])
    _plot_bits(folder / f"{name}-bits.png", table, chosen, widths)


def _plot_bits(path: Path, table: SensitivityTable, chosen: Mapping[str, int], widths: list[int]) -> None:
    figure = blank_figure(9, 1.6 + 0.26 * len(table))
    bars, lines = figure.subplots(1, 2, width_ratios=(2, 3))
    places = range(len(table))
    colours = [COLOURS[place % len(COLOURS)] for place in places]
    bars.barh(places, [chosen[weight] for weight in table], color=colours, height=0.7)
    for place, weight in zip(places, table, strict=True):
        bars.text(chosen[weight] + 0.1, place, str(chosen[weight]), va="center", fontsize=8, color=INK)
    style_axes(bars, "Bits of each weight", "bits", "")
    bars.set_yticks(places, list(table), fontsize=7)
    bars.set_xlim(0, max(widths) + 1)
    bars.invert_yaxis()
    smallest = min((cost for costs in table.values() for cost in costs.values() if cost > 0), default=1e-9)
    for place, (weight, costs) in enumerate(table.items()):
        colour = colours[place]
        heights = [max(costs[bits], smallest) for bits in widths]  # a log scale has no zero
        lines.plot(widths, heights, color=colour, linewidth=1, label=weight if len(table) <= 8 else None)
        lines.plot([chosen[weight]], [max(costs[chosen[weight]], smallest)], "o", color=colour, markersize=5)
    style_axes(lines, "Cost of each width (dot: chosen)", "bits", "cost")
    lines.set_yscale("log")
    if len(table) <= 8:
        lines.legend(fontsize=7, frameon=False, labelcolor=INK)
    figure.savefig(path)
