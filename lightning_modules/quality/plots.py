"""Plots of data quality: class balance, similarity, duplicates, leaks, label errors, outliers and drift.

Longer than 200 lines: one function for each plot.
"""

import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_modules.config.plain import PlainDict
from lightning_modules.quality.duplicate_samples import leaks
from lightning_modules.quality.embedding import log_mel_features
from lightning_modules.quality.findings import Findings
from lightning_modules.quality.samples import PARTS, Samples
from lightning_modules.report.figures import COLOURS, INK, SPLIT_COLOURS, blank_figure, style_axes

COLUMNS, CELLS = 8, 32  # of a grid
LINES = 8  # groups of texts in one figure
MOST_CLASSES = 40  # bars
MOST_COLUMNS = 20  # of drift, the most significant first
Cell = tuple[int, str]  # position, caption


def draw_plots(findings: Findings, report: PlainDict) -> Iterator[tuple[str, Figure]]:
    """Yield the plots with their names; issues that were not found have none."""
    samples = findings.samples
    if samples.num_classes:
        yield "class_balance", plot_class_balance(report["balance"])
    if np.isfinite(findings.nearest).any() and len(samples) > 1:
        yield "nearest_neighbours", plot_similarity(findings)
    if pairs := _duplicate_cells(findings):
        title = "Exact and near duplicates, side by side: part, index: label"
        yield "duplicates", plot_samples(samples, pairs, title, 2)
    if pairs := _leak_cells(findings):
        yield "leaks", plot_samples(samples, pairs, "Leaks: equal or near samples in two parts, side by side", 2)
    if findings.errors is not None and len(findings.errors.positions):
        errors = findings.errors
        cells = [
            (int(i), f"{samples.describe(int(i))}\n{samples.label(int(i))} → {(samples.class_names or [])[int(k)]}")
            for i, k in zip(errors.positions[:CELLS], errors.suggested, strict=False)
        ]
        title = "Suspected label errors: given → suggested, most certain first"
        yield "label_errors", plot_samples(samples, cells, title)
    if len(findings.outliers):
        shown = findings.outliers[:CELLS].tolist()
        cells = [(i, f"{_caption(samples, i)}\nz {findings.outlier_z[i]:.1f}") for i in shown]
        yield "outliers", plot_samples(samples, cells, "Outliers, the farthest from their neighbours first")
    if report.get("drift") and report["drift"]["columns"]:
        yield "drift", plot_drift(report["drift"])


def _caption(samples: Samples, position: int) -> str:
    return f"{samples.describe(position)}: {samples.label(position)}"


def _duplicate_cells(findings: Findings) -> list[Cell]:
    """Return the cells of pairs: exact copies first, then the most similar."""
    found = findings.duplicates
    order = np.argsort(-found.similarity, kind="stable")
    near = found.near[order][: CELLS // 2].tolist()
    room = max(CELLS // 2 - len(near), CELLS // 4)
    chosen = ([group[:2].tolist() for group in found.exact[:room]] + near)[: CELLS // 2]
    return [(i, _caption(findings.samples, i)) for pair in chosen for i in pair]


def _leak_cells(findings: Findings) -> list[Cell]:
    samples = findings.samples
    cells: list[Cell] = []
    for groups in leaks(findings.duplicates, samples).values():
        for group in groups[: CELLS // 2]:
            first = group[0]
            other = next(i for i in group if samples.parts[i] != samples.parts[first])
            cells += [(first, _caption(samples, first)), (other, _caption(samples, other))]
    return cells[:CELLS]


def plot_class_balance(balance: PlainDict) -> Figure:
    """Plot the samples of each class as bars, stacked by part."""
    names = list(next(iter(balance.values()))["counts"])
    shown = names[:MOST_CLASSES]
    width = max(max((len(name) for name in shown), default=1), 1)
    figure = blank_figure(max(5.0, 0.32 * len(shown) + 2), 3.6 + 0.05 * min(width, 30))
    axes = figure.add_subplot()
    more = f" (the first {MOST_CLASSES} of {len(names)})" if len(names) > MOST_CLASSES else ""
    style_axes(axes, f"Samples of each class, by part{more}", "", "samples")
    bottom = np.zeros(len(shown))
    for part in (part for part in PARTS if part in balance):
        counts = np.array([balance[part]["counts"][name] for name in shown])
        color = SPLIT_COLOURS.get(part, "#BBBBBB")
        axes.bar(range(len(shown)), counts, bottom=bottom, color=color, width=0.75, label=part)
        bottom += counts
    turn: Any = {"rotation": 45, "ha": "right"} if width > 3 and len(shown) * width > 40 else {}
    labels = [textwrap.shorten(name, 30, placeholder="…").replace("$", r"\$") for name in shown]
    axes.set_xticks(range(len(shown)), labels, fontsize=8, **turn)
    axes.grid(visible=False, axis="x")
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def plot_similarity(findings: Findings) -> Figure:
    """Plot a histogram of the similarity to the nearest sample, with the threshold of near duplicates."""
    values = findings.nearest[np.isfinite(findings.nearest)]
    threshold = findings.settings.threshold(findings.samples.domain)
    figure = blank_figure(6, 3.4)
    axes = figure.add_subplot()
    near = len(np.unique(findings.duplicates.near))
    title = f"Similarity to the nearest sample: {near:,} of {len(values):,} are near duplicates"
    style_axes(axes, title, "similarity (1: equal)", "samples")
    low = max(float(np.quantile(values, 0.001)), -1.0)
    axes.hist(np.clip(values, low, 1), bins=60, color=COLOURS[0])
    axes.axvline(threshold, color=COLOURS[1], linestyle="--", linewidth=1.4, label=f"near from {threshold:g}")
    axes.set_yscale("symlog", linthresh=10)  # so that a few near duplicates are visible beside thousands
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure


def plot_drift(drift: PlainDict) -> Figure:
    """Plot the columns' statistics; columns that differ (Holm, 5 %) have another color."""
    rows = sorted(drift["columns"], key=lambda row: (row["p_holm"], row["p"]))[:MOST_COLUMNS]
    figure = blank_figure(6.4, 1.4 + 0.22 * len(rows))
    axes = figure.add_subplot()
    auc = "" if drift["auc"] is None else f"; a classifier separates them with AUC {drift['auc']:.3f}"
    title = f"{drift['between'][0]} against {drift['between'][1]}{auc}"
    style_axes(axes, title, "Kolmogorov-Smirnov or Cramér's V", "")
    total = sum(drift["samples"])
    size = [row["statistic"] if row["test"] == "ks" else (row["statistic"] / total) ** 0.5 for row in rows]
    colours = [COLOURS[1] if row["p_holm"] < 0.05 else COLOURS[0] for row in rows]
    axes.barh(range(len(rows)), size, color=colours, height=0.7)
    axes.set_yticks(range(len(rows)), [row["column"] for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, max([0.1, *(s for s in size if np.isfinite(s))]) * 1.25)
    axes.grid(visible=False, axis="y")
    for place, (row, value) in enumerate(zip(rows, size, strict=True)):
        axes.text(value, place, f"  p {row['p_holm']:.2g}", va="center", fontsize=7, color=INK)
    return figure


def plot_samples(samples: Samples, cells: list[Cell], title: str, together: int = 1) -> Figure:
    """Plot samples in a grid, with `together` consecutive ones in one color; texts and rows of tables as a list."""
    if samples.domain in ("text", "interactions", "table"):
        return _plot_text_samples(samples, cells[: LINES * together], title, together)
    cells = cells[:CELLS]
    columns = min(COLUMNS, max(len(cells), 5))
    rows = -(-len(cells) // columns)
    figure = blank_figure(max(1.5 * columns, 0.1 * len(title) + 0.5), 1.85 * rows + 0.5)
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=11, fontweight="bold")
    for number, (position, caption) in enumerate(cells):
        axes = figure.add_subplot(rows, columns, number + 1)
        _draw_sample(axes, samples, position)
        color = COLOURS[number // together % 2] if together > 1 else INK
        axes.set_title("\n".join(_truncate(line, 27) for line in caption.split("\n")), fontsize=7, color=color)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color("#DDDDDD")
    return figure


def _draw_sample(axes: Axes, samples: Samples, position: int) -> None:
    x = samples.read(torch.tensor([position]))[0]
    if samples.domain == "image":
        pixels = x.movedim(0, -1).float().numpy()
        low, high = (0.0, 255.0) if x.dtype == torch.uint8 else (float(np.nanmin(pixels)), float(np.nanmax(pixels)))
        shown = (pixels - low) / max(high - low, 1e-12)
        shown = shown if shown.shape[-1] == 3 else shown[..., 0]
        axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    elif samples.domain == "audio":
        rate = int(getattr(samples.data, "sample_rate", 16000))
        spectrum = log_mel_features(x[None], rate)[0] if x.ndim == 1 else x.reshape(-1, x.shape[-1]).float()
        axes.imshow(spectrum.numpy(), aspect="auto", origin="lower", cmap="magma")
    else:
        axes.plot(x.float().reshape(-1, x.shape[-1]).T.numpy(), linewidth=0.8)


def _plot_text_samples(samples: Samples, cells: list[Cell], title: str, together: int) -> Figure:
    captions = [_truncate(caption.replace("\n", ": "), 120) for _, caption in cells]
    blocks = [[text, *_text_lines(samples, place)] for text, (place, _) in zip(captions, cells, strict=True)]
    gaps = [0.16 if k % together == together - 1 else 0.06 for k in range(len(blocks))]
    height = 0.55 + sum(0.17 * len(block) + gap for block, gap in zip(blocks, gaps, strict=True))
    figure = blank_figure(10, height)
    figure.text(0.01, 1 - 0.2 / height, title, va="center", color=INK, fontsize=11, fontweight="bold")
    top = 0.45
    for k, block in enumerate(blocks):
        colour = COLOURS[k // together % 2] if together > 1 else COLOURS[0]
        heading: Any = {"x": 0.01, "color": colour, "fontweight": "bold"}
        body: Any = {"x": 0.02, "color": INK, "family": "monospace"}
        for line, style in zip(block, [heading, *[body] * len(block)], strict=False):
            figure.text(y=1 - top / height, s=line, va="top", fontsize=8, **style)
            top += 0.17
        top += gaps[k]
    return figure


def _text_lines(samples: Samples, position: int) -> list[str]:
    x = samples.read(torch.tensor([position]))[0]
    if samples.domain == "table":
        text = "  ".join(f"{value:g}" for value in x.flatten().tolist())
    else:
        text = samples.text(position) or "(empty)"
    lines = textwrap.wrap(text, 140, max_lines=3, placeholder=" …")
    return [line.replace("$", r"\$") for line in lines]


def _truncate(text: str, limit: int) -> str:
    return (text if len(text) <= limit else text[: limit - 1] + "…").replace("$", r"\$")
