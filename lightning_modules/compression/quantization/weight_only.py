"""Weight-only quantization: int8, int4 or other widths, on the layers' weights alone."""

from collections.abc import Sequence
from math import gcd
from typing import Any, get_args

import torch
from torch import Tensor, nn

from lightning_modules.compression.quantization.uniform_grid import ScaleRule, fit_grid
from lightning_modules.compression.quantization.weight_sharing import select_weights
from lightning_modules.compression.stage import Stage, StageContext
from lightning_modules.config.errors import UserError, suggest


class WeightOnlyQuantization(Stage):
    """Puts the weights of all linear, convolutional and recurrent layers on a grid of 2^bits values.

    The file is smaller; nothing is faster: the network computes with the same values as floats.

    Args:
        bits: 2 to 8.
        group: consecutive entries that share a scale; None: an output channel.
        zero_point: a grid from the least weight to the greatest, instead of one even around zero.
        scale: ``range``, or ``mse``: clipped where the squared error is less.
        layers, exclude: names or patterns of layers.
    """

    kind = "share"

    def __init__(
        self,
        bits: int = 8,
        group: int | None = None,
        zero_point: bool = False,
        scale: ScaleRule = "range",
        layers: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
    ) -> None:
        super().__init__("after")
        if bits not in range(2, 9):
            raise UserError(f"compression: bits={bits}: a grid has 2 to 8")
        if group is not None and group < 2:
            raise UserError(f"compression: group={group}: a group has at least 2 entries; null: an output channel")
        if scale not in get_args(ScaleRule):
            raise UserError(f"compression: scale={scale}: {suggest(str(scale), get_args(ScaleRule))}")
        self.bits, self.group, self.zero_point, self.scale = bits, group, zero_point, scale
        self.layers, self.exclude = layers, exclude

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        chosen = select_weights(self, model)
        for name, weight in chosen.items():
            if self.group and weight.numel() % self.group:
                common = gcd(*(w.numel() for w in chosen.values()))
                raise self.config_error(
                    f"group={self.group} does not divide the {weight.numel()} entries of {name}: the divisors of {common} "
                    "divide all of these layers; others can be left out with exclude=[…]"
                )

    def begin(self, context: StageContext) -> None:
        changed = False
        for name, weight in select_weights(self, context.model).items():
            grid = fit_grid(weight, self.bits, self.group, self.zero_point, self.scale)
            context.state.grids[name] = grid
            changed = changed or not torch.equal(grid.values(), weight)
        if not changed:
            raise self.config_error(f"bits={self.bits}: no weight changed: all lie on such a grid already")
        context.state.apply(context.model)

    def settings(self) -> dict[str, Any]:
        return {"bits": self.bits, "group": self.group, "zero_point": self.zero_point, "scale": self.scale}
