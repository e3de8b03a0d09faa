"""Mixed precision: the bits of each layer, chosen by sensitivity under a size budget."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_modules.compression.form import Codebook
from lightning_modules.compression.quantization.bit_budget import BitBudget, kept_entries, mean_budget, ratio_budget
from lightning_modules.compression.quantization.bit_report import report
from lightning_modules.compression.quantization.codebook import chosen_weights, codebook_of
from lightning_modules.compression.quantization.grid import grid_of
from lightning_modules.compression.quantization.sensitivity import Few, by_evaluation, by_proxy, choose_bits
from lightning_modules.compression.stage import Stage, Work
from lightning_modules.errors import UserError, nearest

Made = Literal["codebook", "grid"]
By = Literal["proxy", "metric"]


class MixedBits(Stage):
    """Gives each layer a codebook or a grid of its own number of bits.

    Args:
        bits: the budget as the mean over the kept entries of the chosen weights; or
        size_ratio: as float32 bytes of the whole network over packed bytes, before entropy coding: what is neither
            chosen nor masked counts 4 bytes an entry, a mask one bit. Exactly one of the two.
        of: ``codebook`` (k-means) or ``grid`` (whole numbers times a scale per channel).
        by: ``proxy``: squared error times squared gradient, see `sensitivity.by_proxy`; ``metric``: the monitored metric
            with that layer alone in few bits, which takes an evaluation for every layer and width.
        choices: the widths to choose from, 1 to 8 for a codebook, 2 to 8 for a grid.
        batches: that the gradient is averaged over.
        layers, exclude: names or patterns of layers.
    """

    kind = "share"

    def __init__(
        self,
        bits: float | None = None,
        size_ratio: float | None = None,
        of: Made = "codebook",
        by: By = "proxy",
        choices: Sequence[int] = (2, 3, 4, 5, 6, 8),
        batches: int = 8,
        layers: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        epochs: int = 0,
        lr: float | None = None,
    ) -> None:
        super().__init__("after", epochs, lr)
        for key, value, options in (("of", of, get_args(Made)), ("by", by, get_args(By))):
            if value not in options:
                raise UserError(f"compression: {key}={value}: {nearest(str(value), options)}")
        if (bits is None) == (size_ratio is None):
            raise UserError("compression: mixed bits need exactly one budget: bits (a mean) or size_ratio")
        if size_ratio is not None and size_ratio <= 1:
            raise UserError(f"compression: size_ratio={size_ratio}: it must be above 1")
        least = 1 if of == "codebook" else 2
        if not choices or any(choice not in range(least, 9) for choice in choices):
            raise UserError(f"compression: choices={list(choices)}: a {of} has {least} to 8 bits")
        if bits is not None and bits < min(choices):
            raise UserError(f"compression: bits={bits}: the fewest of choices={list(choices)} are {min(choices)}")
        if batches < 1:
            raise UserError(f"compression: batches={batches}: the sensitivity needs at least one")
        self.bits, self.size_ratio, self.of, self.by = bits, size_ratio, of, by
        self.choices, self.batches = sorted({int(choice) for choice in choices}), batches
        self.layers, self.exclude = layers, exclude
        self.chosen: dict[str, int] = {}

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        chosen_weights(self, model)

    def begin(self, work: Work) -> None:
        weights = chosen_weights(self, work.model)
        made = self._made(work, weights)
        table = by_proxy(work, made, self.batches) if self.by == "proxy" else by_evaluation(work, made)
        budget = self._budget(work, weights)
        self.chosen, total = choose_bits(table, budget.size, budget.most)
        if total > budget.most:
            key = "size_ratio" if self.size_ratio else "bits"
            raise self.mistake(
                f"{key}={getattr(self, key)} cannot be met: choices={self.choices} reach {budget.reached(total):.3g}"
            )
        for name, bits in self.chosen.items():
            few = made[name][bits]
            if isinstance(few, Codebook):
                work.form.codebooks[name] = few
            else:
                work.form.grids[name] = few
        if all(torch.equal(made[name][bits].values(), weights[name]) for name, bits in self.chosen.items()):
            raise self.mistake("no weight changed: all have few enough values already")
        work.form.apply(work.model)
        mean = sum(budget.kept[name] * bits for name, bits in self.chosen.items()) / max(1, sum(budget.kept.values()))
        work.log({"compression/mean_bits": mean})
        report(work.folder, self.name, table, self.chosen, budget.kept)

    def _made(self, work: Work, weights: Mapping[str, Tensor]) -> dict[str, dict[int, Few]]:
        """Each weight in each of the widths."""
        generator = torch.Generator().manual_seed(work.seed)
        made: dict[str, dict[int, Few]] = {}
        for name, weight in weights.items():
            mask = work.form.masks.get(name)
            made[name] = {
                bits: grid_of(weight, bits, scale="mse")
                if self.of == "grid"
                else codebook_of(weight, mask, bits, "layer", "linear", generator)
                for bits in self.choices
            }
        return made

    def _budget(self, work: Work, weights: Mapping[str, Tensor]) -> BitBudget:
        kept = kept_entries(weights, work.form)
        if self.size_ratio is None:
            assert self.bits is not None
            return mean_budget(self.bits, kept, self.choices)
        tables = {
            name: {bits: len(weight) if self.of == "grid" else 2**bits for bits in self.choices}
            for name, weight in weights.items()
        }
        return ratio_budget(self.size_ratio, work.model, work.form, kept, tables)

    def settings(self) -> dict[str, Any]:
        return {"bits": dict(self.chosen), "of": self.of, "by": self.by}

    def state_dict(self) -> dict[str, Any]:
        return {"chosen": dict(self.chosen)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.chosen = dict(state_dict["chosen"])
