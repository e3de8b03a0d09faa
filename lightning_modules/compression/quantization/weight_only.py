"""Weight-only quantization to 2 to 8 bits."""

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
    """Rounds the weights of all linear, convolutional and recurrent layers to a grid of 2^bits values.

    The file is smaller, but nothing is faster: the network computes with the same values as floats.

    Args:
        bits: 2 to 8.
        group: number of consecutive entries that share a scale; None: those of an output channel.
        zero_point: the grid spans from the smallest weight to the largest, instead of symmetrically around zero.
        scale: ``range``, or ``mse``: clipped to minimize the squared error.
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
            raise UserError(f"compression: bits={bits}: expected 2 to 8")
        if group is not None and group < 2:
            raise UserError(f"compression: group={group}: expected at least 2 entries, or null for an output channel")
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
                    f"group={self.group} does not divide the {weight.numel()} entries of {name}; use a divisor of {common}, "
                    "which divides all of these layers, or exclude=[…]"
                )

    def begin(self, context: StageContext) -> None:
        changed = False
        for name, weight in select_weights(self, context.model).items():
            grid = fit_grid(weight, self.bits, self.group, self.zero_point, self.scale)
            context.state.grids[name] = grid
            changed = changed or not torch.equal(grid.values(), weight)
        if not changed:
            raise self.config_error(f"bits={self.bits}: no weight changed: all weights are already on such a grid")
        context.state.apply(context.model)

    def settings(self) -> dict[str, Any]:
        return {"bits": self.bits, "group": self.group, "zero_point": self.zero_point, "scale": self.scale}
