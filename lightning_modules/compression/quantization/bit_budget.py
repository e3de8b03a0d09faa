"""Size budgets of mixed-precision quantization."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from lightning_modules.compression.compressed_state import CompressedState


@dataclass(frozen=True)
class BitBudget:
    """Sizes in bits, before entropy coding.

    Attributes:
        kept: number of unmasked entries of each selected weight.
        tables: for each selected weight and width, the number of centroids or scales, 32 bits each.
        most: the largest allowed size of the selected weights.
        fixed, dense: size of the rest of the network, and of the network in float32; 0 for a budget of mean bits.
    """

    kept: Mapping[str, int]
    tables: Mapping[str, Mapping[int, int]]
    most: float
    fixed: int = 0
    dense: int = 0

    def size(self, name: str, bits: int) -> float:
        """The size of one weight."""
        return self.kept[name] * bits + 32 * self.tables[name][bits]

    def reached(self, total: float) -> float:
        """The mean bits, or the size ratio, for a `total` size of the selected weights."""
        return self.dense / (self.fixed + total) if self.dense else total / max(1, sum(self.kept.values()))


def mean_budget(bits: float, kept: Mapping[str, int], choices: list[int]) -> BitBudget:
    """A budget of mean bits for each unmasked entry; tables do not count."""
    return BitBudget(kept, {name: dict.fromkeys(choices, 0) for name in kept}, bits * sum(kept.values()))


def ratio_budget(
    ratio: float,
    model: nn.Module,
    state: CompressedState,
    kept: Mapping[str, int],
    tables: Mapping[str, Mapping[int, int]],
) -> BitBudget:
    """A network `ratio` times smaller than in float32; other weights have 32 bits, a mask one bit for each entry."""
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
    """The number of unmasked entries of each weight."""
    return {n: int(state.masks[n].sum()) if n in state.masks else weight.numel() for n, weight in weights.items()}
