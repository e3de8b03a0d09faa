"""Sensitivity analysis: the cost of pruning each layer alone, and the sparsities per layer that follow from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lightning_modules.compression.pruning.saliency import group_by_layer, keep_highest
from lightning_modules.compression.stage import StageContext

LEVELS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
_TIE_BREAK = 1e-6  # small slope, so that layers without any cost become equally sparse


@dataclass
class SensitivityCurves:
    """The validation metric with one layer pruned, for each layer and sparsity.

    Attributes:
        levels: sparsities [K].
        values: the metric with one layer pruned, [K] by layer.
        dense: the metric of the unpruned network.
        higher_is_better: of the metric.
    """

    levels: Sequence[float]
    values: dict[str, list[float]]
    dense: float
    higher_is_better: bool

    def costs(self, layer: str) -> np.ndarray:
        """How much worse the metric is than the dense network's, [K]; negative if it is better."""
        worse = self.dense - np.array(self.values[layer])
        return worse if self.higher_is_better else -worse


@torch.no_grad()
def measure_sensitivity(
    context: StageContext, weights: Mapping[str, Tensor], scores: Mapping[str, Tensor], levels: Sequence[float]
) -> SensitivityCurves:
    """Prune one layer at a time to each of `levels`, evaluate, and restore its weights (Han et al. 2015, section 4.1; Li
    et al. 2017, section 3.2).
    """
    values: dict[str, list[float]] = {}
    dense = context.evaluate(context.model)
    for group in group_by_layer(weights):
        layer = group[0].rpartition(".")[0]
        before = {name: weights[name].clone() for name in group}
        size = sum(weight.numel() for weight in before.values())
        values[layer] = []
        for level in levels:
            masks = keep_highest(scores, [group], [round(level * size)])
            for name, mask in masks.items():
                weights[name].copy_(before[name] * mask)
            values[layer].append(context.evaluate(context.model))
        for name, weight in before.items():
            weights[name].copy_(weight)
    return SensitivityCurves(levels, values, dense, context.higher_is_better)


def sparsity_per_layer(curves: SensitivityCurves, sizes: Mapping[str, int], sparsity: float) -> dict[str, float]:
    """The sparsity of each layer such that all layers cost the same and the overall sparsity is `sparsity`.

    Costs are interpolated between the measured levels, never decrease, and rise steeply above the last level.
    """
    top = max(float(curves.costs(layer).max()) for layer in sizes)
    ceiling = 2 * max(top, 0.0) + 1.0
    points = {layer: _cost_and_level(curves, layer, sizes[layer], ceiling) for layer in sizes}
    total = sparsity * sum(sizes.values())
    low, high = 0.0, ceiling
    for _ in range(60):
        middle = (low + high) / 2
        zeros = sum(float(np.interp(middle, *points[layer])) * size for layer, size in sizes.items())
        low, high = (middle, high) if zeros < total else (low, middle)
    return {layer: float(np.interp(high, *points[layer])) for layer in sizes}


def _cost_and_level(curves: SensitivityCurves, layer: str, size: int, ceiling: float) -> tuple[np.ndarray, np.ndarray]:
    """A layer's curve as increasing costs and sparsities, from (0, 0) to (`ceiling`, all but one weight)."""
    levels = np.array([0.0, *curves.levels, 1.0])
    costs = np.maximum.accumulate([0.0, *curves.costs(layer), ceiling]) + _TIE_BREAK * levels
    return costs, np.minimum(levels, 1 - 1 / size)


def write_sensitivity(curves: SensitivityCurves, context: StageContext) -> None:
    """Write sensitivity.csv and sensitivity.png into the run's folder, on rank 0."""
    if context.task.global_rank:
        return
    context.folder.mkdir(parents=True, exist_ok=True)
    rows = [
        (layer, *row)
        for layer, values in curves.values.items()
        for row in zip(curves.levels, values, curves.costs(layer), strict=True)
    ]
    columns = ["layer", "sparsity", "metric", "cost"]
    pd.DataFrame(rows, columns=columns).to_csv(context.folder / "sensitivity.csv", index=False)
    plot_sensitivity(curves).savefig(context.folder / "sensitivity.png")


def plot_sensitivity(curves: SensitivityCurves) -> Any:
    """A heat map with a row for each layer and a column for each sparsity, annotated with the metric."""
    from lightning_modules.report.figures import INK, blank_figure, style_axes

    layers = list(curves.values)
    costs = np.array([curves.costs(layer) for layer in layers])
    longest = max(len(layer) for layer in layers)
    figure = blank_figure(2.4 + 0.08 * longest + 0.62 * len(curves.levels), 1.6 + 0.28 * len(layers))
    axes = figure.add_subplot()
    top = max(float(costs.max()), 1e-12)
    image = axes.imshow(costs, cmap="Oranges", vmin=0, vmax=top, aspect="auto")
    style_axes(axes, f"Each layer pruned alone (dense: {curves.dense:.4g})", "sparsity of the layer", "", grid=False)
    axes.set_xticks(range(len(curves.levels)), [f"{level:g}" for level in curves.levels])
    axes.set_yticks(range(len(layers)), layers)
    for row, layer in enumerate(layers):
        for column, value in enumerate(curves.values[layer]):
            colour = "white" if costs[row, column] > 0.6 * top else INK
            axes.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=7, color=colour)
    bar = figure.colorbar(image)
    bar.set_label("cost (decrease of the metric)", color=INK, fontsize=9)
    bar.ax.tick_params(labelsize=8, length=0, colors=INK)
    bar.outline.set_visible(False)
    return figure
