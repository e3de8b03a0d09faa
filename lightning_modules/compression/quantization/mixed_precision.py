"""Mixed-precision quantization: the bits of each layer, chosen by sensitivity under a size budget."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pandas as pd
import torch
from annotated_types import Gt
from matplotlib.figure import Figure
from torch import Tensor, nn

from lightning_modules.compression.compressed_state import CompressedState, QuantizedWeight
from lightning_modules.compression.quantization.bit_allocation import (
    BitBudget,
    SensitivityTable,
    allocate_bits,
    count_unmasked,
    fisher_sensitivity,
    mean_budget,
    metric_sensitivity,
    ratio_budget,
)
from lightning_modules.compression.quantization.weight_only import fit_grid
from lightning_modules.compression.quantization.weight_sharing import WeightQuantization, fit_codebook
from lightning_modules.compression.stage import Settings, StageContext
from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.report.figures import COLOURS, INK, blank_figure, style_axes

Representation = Literal["codebook", "grid"]
SensitivityMeasure = Literal["proxy", "metric"]


class MixedPrecision(WeightQuantization):
    """Quantizes each of the selected layers (see `LayerStage`) by a codebook or a grid with its own number of bits.

    Args:
        bits: the budget as mean bits over the unmasked entries of the selected weights; or
        size_ratio: the budget as float32 size of the network over quantized size, before entropy coding: other entries
            count 4 bytes, a mask one bit for each entry. Exactly one of the two is required.
        of: ``codebook`` (k-means) or ``grid`` (integers times a scale per channel).
        by: ``proxy``: squared error times squared gradient, see `fisher_sensitivity`; ``metric``: the monitored metric
            with this layer alone quantized, which needs one evaluation for each layer and width.
        choices: the widths to choose from, 1 to 8 bits for a codebook, 2 to 8 for a grid.
        batches: number of batches over which the gradient is averaged.
    """

    saved: ClassVar = {"chosen": "chosen"}

    @bounded
    def __init__(
        self,
        bits: float | None = None,
        size_ratio: Annotated[float, Gt(1)] | None = None,
        of: Representation = "codebook",
        by: SensitivityMeasure = "proxy",
        choices: Sequence[int] = (2, 3, 4, 5, 6, 8),
        batches: Count = 8,
        **fit: Any,
    ) -> None:
        super().__init__(**fit)
        if (bits is None) == (size_ratio is None):
            raise UserError("compression: mixed precision needs exactly one budget: bits (a mean) or size_ratio")
        least = 1 if of == "codebook" else 2
        if not choices or any(choice not in range(least, 9) for choice in choices):
            raise UserError(f"compression: choices={list(choices)}: expected {least} to 8 bits for a {of}")
        if bits is not None and bits < min(choices):
            raise UserError(
                f"compression: bits={bits}: expected at least {min(choices)}, the smallest of choices={list(choices)}"
            )
        self.bits, self.size_ratio, self.of, self.by = bits, size_ratio, of, by
        self.choices, self.batches = sorted({int(choice) for choice in choices}), batches
        self.chosen: dict[str, int] = {}

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        weights = self.weights(model)
        if self.of == "codebook":
            self.check_codebook_size(model, self.choices[0])
        if not any(
            stage.kind in ("structure", "pruning") for stage in self.earlier
        ):  # else the sizes are not known yet
            equal = {name: dict.fromkeys(self.choices, 0.0) for name in weights}
            self._allocate(equal, self._budget(model, CompressedState(), weights))

    def _allocate(self, table: SensitivityTable, budget: BitBudget) -> dict[str, int]:
        chosen, total = allocate_bits(table, budget.size, budget.most)
        if total > budget.most:
            key = "size_ratio" if self.size_ratio else "bits"
            raise self.config_error(
                f"{key}={getattr(self, key)} cannot be met: choices={self.choices} reach only {budget.reached(total):.3g}"
            )
        return chosen

    def begin(self, context: StageContext) -> None:
        weights = self.weights(context.model)
        made = self._quantized_to_each_width(context, weights)
        table = (
            fisher_sensitivity(context, made, self.batches) if self.by == "proxy" else metric_sensitivity(context, made)
        )
        budget = self._budget(context.model, context.state, weights)
        self.chosen = self._allocate(table, budget)
        self.quantize(context, {name: made[name][bits] for name, bits in self.chosen.items()})
        mean = sum(budget.kept[name] * bits for name, bits in self.chosen.items()) / max(1, sum(budget.kept.values()))
        context.log({"compression/mean_bits": mean})
        write_bit_report(context.folder, self.name, table, self.chosen, budget.kept)

    def _quantized_to_each_width(
        self, context: StageContext, weights: Mapping[str, Tensor]
    ) -> dict[str, dict[int, QuantizedWeight]]:
        generator = torch.Generator().manual_seed(context.seed)

        def quantized(name: str, weight: Tensor, bits: int) -> QuantizedWeight:
            if self.of == "grid":
                return fit_grid(weight, bits, scale="mse")
            return fit_codebook(weight, context.state.masks.get(name), bits, "layer", "linear", generator)

        return {name: {bits: quantized(name, w, bits) for bits in self.choices} for name, w in weights.items()}

    def _budget(self, model: nn.Module, state: CompressedState, weights: Mapping[str, Tensor]) -> BitBudget:
        kept = count_unmasked(weights, state)
        if self.bits is not None:
            return mean_budget(self.bits, kept, self.choices)
        assert self.size_ratio is not None
        tables = {
            name: {bits: len(weight) if self.of == "grid" else 2**bits for bits in self.choices}
            for name, weight in weights.items()
        }
        return ratio_budget(self.size_ratio, model, state, kept, tables)

    def settings(self) -> Settings:
        return {"bits": self.chosen, "of": self.of, "by": self.by}


def write_bit_report(
    folder: Path, name: str, table: SensitivityTable, chosen: Mapping[str, int], kept: Mapping[str, int]
) -> None:
    """Write ``<name>-bits.csv`` (weight, entries kept, bits, cost at each width) and ``<name>-bits.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"weight": weight, "kept": kept[weight], "bits": chosen[weight]} | {f"cost_{b}": c for b, c in costs.items()}
        for weight, costs in table.items()
    ]
    pd.DataFrame(rows).to_csv(folder / f"{name}-bits.csv", index=False, float_format="%.6g")
    plot_bits(table, chosen).savefig(folder / f"{name}-bits.png")


def plot_bits(table: SensitivityTable, chosen: Mapping[str, int]) -> Figure:
    """A bar for the bits of each weight, and a line for its cost at each width."""
    widths = sorted({bits for costs in table.values() for bits in costs})
    figure = blank_figure(9, 1.6 + 0.26 * len(table))
    bars, lines = figure.subplots(1, 2, width_ratios=(2, 3))
    colours = [COLOURS[place % len(COLOURS)] for place in range(len(table))]
    bars.bar_label(bars.barh(list(table), [chosen[weight] for weight in table], color=colours, height=0.7), fontsize=8)
    style_axes(bars, "Bits of each weight", "bits", "")
    bars.tick_params(axis="y", labelsize=7)
    bars.set_xlim(0, max(widths) + 1)
    bars.invert_yaxis()
    smallest = min((cost for costs in table.values() for cost in costs.values() if cost > 0), default=1e-9)
    for colour, (weight, costs) in zip(colours, table.items(), strict=True):
        heights = [max(costs[bits], smallest) for bits in widths]  # a log scale has no zero
        lines.plot(
            widths, heights, "-o", color=colour, linewidth=1, markevery=[widths.index(chosen[weight])], label=weight
        )
    style_axes(lines, "Cost of each width (dot: chosen)", "bits", "cost")
    lines.set_yscale("log")
    if len(table) <= 8:
        lines.legend(fontsize=7, frameon=False, labelcolor=INK)
    return figure
