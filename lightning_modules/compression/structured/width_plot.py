"""Plots the widths of a network's layers before and after pruning."""

from pathlib import Path

import numpy as np
from torch import nn

from lightning_modules.compression.structured.output_layers import LINEAR_LAYERS
from lightning_modules.report.figures import COLOURS, GRID, INK, blank_figure, style_axes


def plot_widths(dense: nn.Module, thin: nn.Module, title: str, path: Path) -> None:
    """Plot how many outputs each layer keeps, with the first layer on top."""
    before, after = _output_widths(dense), _output_widths(thin)
    names = list(before)
    places = np.arange(len(names))
    figure = blank_figure(7, 1.2 + 0.24 * len(names))
    axes = figure.add_subplot()
    style_axes(axes, title, "outputs", "", grid=False)
    axes.barh(places, [before[name] for name in names], color=GRID, label="before")
    axes.barh(places, [after[name] for name in names], color=COLOURS[0], height=0.5, label="kept")
    for place, name in enumerate(names):
        axes.text(before[name], place, f" {after[name]}", va="center", fontsize=7, color=INK)
    axes.set_yticks(places, names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.margins(x=0.1)
    figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path)


def _output_widths(model: nn.Module) -> dict[str, int]:
    """Number of outputs of each layer, by name."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LINEAR_LAYERS)}
    return {n: m.out_features if isinstance(m, nn.Linear) else m.out_channels for n, m in layers.items()}
