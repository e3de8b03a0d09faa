"""What the layers' bits add up to, and how much they may."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from lightning_modules.compression.compressed_state import CompressedState


@dataclass(frozen=True)
class BitBudget:
    """Sizes in bits, before entropy coding.

    Attributes:
        kept: of each chosen weight, the entries that no mask holds at zero.
        tables: of each chosen weight, numbers beside its entries by width: centroids or scales, 32 bits each.
        most: the chosen weights may have together.
        fixed, dense: everything else of the network, and all of it as float32; 0 where only the mean counts.
    """

    kept: Mapping[str, int]
    tables: Mapping[str, Mapping[int, int]]
    most: float
    fixed: int = 0
    dense: int = 0

    def size(self, name: str, bits: int) -> float:
        """Of one weight."""
        return self.kept[name] * bits + 32 * self.tables[name][bits]

    def reached(self, total: float) -> float:
        """The mean bits, or the ratio, that the chosen weights' `total` comes to."""
        return self.dense / (self.fixed + total) if self.dense else total / max(1, sum(self.kept.values()))


def mean_budget(bits: float, kept: Mapping[str, int], choices: list[int]) -> BitBudget:
    """So many bits a kept entry on average; tables do not count."""
    return BitBudget(kept, {name: dict.fromkeys(choices, 0) for name in kept}, bits * sum(kept.values()))


def ratio_budget(
    ratio: float,
    model: nn.Module,
    state: CompressedState,
    kept: Mapping[str, int],
    tables: Mapping[str, Mapping[int, int]],
) -> BitBudget:
    """The network `ratio` times smaller than as float32; what is not chosen keeps 32 bits, a mask takes one bit an entry."""
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    dense = 32 * sum(tensor.numel() for tensor in tensors.values())
    others = sum(
        int(state.masks[name].sum()) if name in state.masks else tensor.numel()
        for name, tensor in tensors.items()
        if name not in kept
    )
    fixed = 32 * others + sum(mask.numel() for mask in state.masks.values())
    return BitBudget(kept, tables, dense / ratio - fixed, fixed, dense)


def count_unmasked(weights: Mapping[str, Tensor], state: CompressedState) -> dict[str, int]:
    """How many entries of each weight are not masked."""
    return {n: int(state.masks[n].sum()) if n in state.masks else weight.numel() for n, weight in weights.items()}
