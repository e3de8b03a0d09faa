"""Mixed-precision quantization: the bits of each layer, chosen by sensitivity under a size budget."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_modules.compression.compressed_state import Codebook
from lightning_modules.compression.quantization.bit_allocation import (
    QuantizedWeight,
    allocate_bits,
    fisher_sensitivity,
    metric_sensitivity,
)
from lightning_modules.compression.quantization.bit_allocation_report import write_bit_report
from lightning_modules.compression.quantization.bit_budget import BitBudget, count_unmasked, mean_budget, ratio_budget
from lightning_modules.compression.quantization.uniform_grid import fit_grid
from lightning_modules.compression.quantization.weight_sharing import fit_codebook, select_weights
from lightning_modules.compression.stage import Stage, StageContext
from lightning_modules.config.errors import UserError, suggest

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

    kind = "share"

    def __init__(
        self,
        bits: float | None = None,
        size_ratio: float | None = None,
        of: Representation = "codebook",
        by: SensitivityMeasure = "proxy",
        choices: Sequence[int] = (2, 3, 4, 5, 6, 8),
        batches: int = 8,
        layers: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        epochs: int = 0,
        lr: float | None = None,
    ) -> None:
        super().__init__("after", epochs, lr)
        for key, value, options in (("of", of, get_args(Representation)), ("by", by, get_args(SensitivityMeasure))):
            if value not in options:
                raise UserError(f"compression: {key}={value}: {suggest(str(value), options)}")
        if (bits is None) == (size_ratio is None):
            raise UserError("compression: mixed precision needs exactly one budget: bits (a mean) or size_ratio")
        if size_ratio is not None and size_ratio <= 1:
            raise UserError(f"compression: size_ratio={size_ratio}: expected a number above 1")
        least = 1 if of == "codebook" else 2
        if not choices or any(choice not in range(least, 9) for choice in choices):
            raise UserError(f"compression: choices={list(choices)}: expected {least} to 8 bits for a {of}")
        if bits is not None and bits < min(choices):
            raise UserError(
                f"compression: bits={bits}: expected at least {min(choices)}, the smallest of choices={list(choices)}"
            )
        if batches < 1:
            raise UserError(f"compression: batches={batches}: expected at least 1")
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

    def settings(self) -> dict[str, Any]:
        return {"bits": dict(self.chosen), "of": self.of, "by": self.by}

    def state_dict(self) -> dict[str, Any]:
        return {"chosen": dict(self.chosen)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.chosen = dict(state_dict["chosen"])
