"""Mixed-precision quantization: the bits of each layer, chosen by sensitivity under a size budget."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import Tensor, nn

from lightning_modules.compression.compressed_state import Codebook
from lightning_modules.compression.quantization.bit_allocation import (
    BitBudget,
    QuantizedWeight,
    SensitivityTable,
    allocate_bits,
    count_unmasked,
    fisher_sensitivity,
    mean_budget,
    metric_sensitivity,
    ratio_budget,
)
from lightning_modules.compression.quantization.weight_only import fit_grid
from lightning_modules.compression.quantization.weight_sharing import fit_codebook, select_weights
from lightning_modules.compression.stage import Settings, Stage, StageContext, StateDict
from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.report.figures import COLOURS, INK, blank_figure, style_axes

Representation = Literal["codebook", "grid"]
SensitivityMeasure = Literal["proxy", "metric"]


class MixedPrecision(Stage):
    """Quantizes each layer by a codebook or a grid with its own number of bits.

    Args:
        bits: the budget as mean bits over the unmasked entries of the selected weights; or
        size_ratio: the budget as float32 size of the network over quantized size, before entropy coding: other entries
            count 4 bytes, a mask one bit for each entry. Exactly one of the two is required.
        of: ``codebook`` (k-means) or ``grid`` (integers times a scale per channel).
        by: ``proxy``: squared error times squared gradient, see `fisher_sensitivity`; ``metric``: the monitored metric
            with this layer alone quantized, which needs one evaluation for each layer and width.
        choices: the widths to choose from, 1 to 8 bits for a codebook, 2 to 8 for a grid.
        batches: number of batches over which the gradient is averaged.
        layers, exclude: names or patterns of layers.
    """

    kind = "weight_quantization"

    @bounded
    def __init__(
        self,
        bits: float | None = None,
        size_ratio: Annotated[float, Gt(1)] | None = None,
        of: Representation = "codebook",
        by: SensitivityMeasure = "proxy",
        choices: Sequence[int] = (2, 3, 4, 5, 6, 8),
        batches: Count = 8,
        layers: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        epochs: int = 0,
        lr: float | None = None,
    ) -> None:
        super().__init__("after", epochs, lr)
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
        self.layers, self.exclude = layers, exclude
        self.chosen: dict[str, int] = {}

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        select_weights(self, model)

    def begin(self, context: StageContext) -> None:
        weights = select_weights(self, context.model)
        made = self._made(context, weights)
        table = (
            fisher_sensitivity(context, made, self.batches) if self.by == "proxy" else metric_sensitivity(context, made)
        )
        budget = self._budget(context, weights)
        self.chosen, total = allocate_bits(table, budget.size, budget.most)
        if total > budget.most:
            key = "size_ratio" if self.size_ratio else "bits"
            raise self.config_error(
                f"{key}={getattr(self, key)} cannot be met: choices={self.choices} reach only {budget.reached(total):.3g}"
            )
        for name, bits in self.chosen.items():
            quantized = made[name][bits]
            if isinstance(quantized, Codebook):
                context.state.codebooks[name] = quantized
            else:
                context.state.grids[name] = quantized
        if all(torch.equal(made[name][bits].values(), weights[name]) for name, bits in self.chosen.items()):
            raise self.config_error("no weight changed: all weights already have few enough values")
        context.state.apply(context.model)
        mean = sum(budget.kept[name] * bits for name, bits in self.chosen.items()) / max(1, sum(budget.kept.values()))
        context.log({"compression/mean_bits": mean})
        write_bit_report(context.folder, self.name, table, self.chosen, budget.kept)

    def _made(self, context: StageContext, weights: Mapping[str, Tensor]) -> dict[str, dict[int, QuantizedWeight]]:
        """Each weight quantized to each of the widths."""
        generator = torch.Generator().manual_seed(context.seed)
        made: dict[str, dict[int, QuantizedWeight]] = {}
        for name, weight in weights.items():
            mask = context.state.masks.get(name)
            made[name] = {
                bits: fit_grid(weight, bits, scale="mse")
                if self.of == "grid"
                else fit_codebook(weight, mask, bits, "layer", "linear", generator)
                for bits in self.choices
            }
        return made

    def _budget(self, context: StageContext, weights: Mapping[str, Tensor]) -> BitBudget:
        kept = count_unmasked(weights, context.state)
        if self.size_ratio is None:
            assert self.bits is not None
            return mean_budget(self.bits, kept, self.choices)
        tables = {
            name: {bits: len(weight) if self.of == "grid" else 2**bits for bits in self.choices}
            for name, weight in weights.items()
        }
        return ratio_budget(self.size_ratio, context.model, context.state, kept, tables)

    def settings(self) -> Settings:
        return {"bits": dict(self.chosen), "of": self.of, "by": self.by}

    def state_dict(self) -> StateDict:
        return {"chosen": dict(self.chosen)}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self.chosen = dict(state_dict["chosen"])


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
