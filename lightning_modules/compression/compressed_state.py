"""How the tensors of a compressed network are represented (masks, codebooks, grids), and its architecture steps.

An architecture step, ``{"do": name, …}``, describes how a stage changed the network; `RESTORE_FUNCTIONS` names the function
``(model, step, example) -> model`` that repeats it, with `example` floats [1, *input_shape]. Weights are loaded afterwards, so
a step restores shapes and layers only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module

import torch
from torch import Tensor, nn

from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict

Step = PlainDict  # plain values: ``{"do": name, …}``
RestoreFunction = Callable[[nn.Module, Step, Tensor], nn.Module]
# Named, not imported, so that optional libraries are imported only when they are needed.
RESTORE_FUNCTIONS = {
    "channels": "lightning_modules.compression.structured.structured_pruning:restore",
    "low_rank": "lightning_modules.compression.structured.low_rank:restore",
    "fold": "lightning_modules.compression.structured.batch_norm_folding:restore",
    "half": "lightning_modules.compression.quantization.half_precision:restore",
    "onnx": "lightning_modules.compression.onnx_model:restore",
}


@dataclass
class Codebook:
    """A weight whose entries take a few shared values (Han et al. 2016, section 3).

    Attributes:
        indices: the centroid of each entry, uint8, of the weight's shape.
        centroids: [K] for the whole layer, or [C, K] for its C output channels (dimension 0 of the weight).
    """

    indices: Tensor
    centroids: Tensor

    def values(self) -> Tensor:
        """The weight itself, in the centroids' dtype."""
        index = self.indices.long()
        if self.centroids.ndim == 1:
            return self.centroids[index]
        return self.centroids.gather(1, index.flatten(1)).view(index.shape)


@dataclass
class QuantGrid:
    """A weight whose entries are integers times a scale: ``scale * (q - zero_point)``.

    Attributes:
        q: int8, of the weight's shape.
        scale: float32 [G, 1], one for each of G equal groups of consecutive entries (a group may be a channel).
        zero_point: int8 [G, 1], or None for 0.
        bits: of an integer, 1 to 8: ``-2**(bits-1) <= q < 2**(bits-1)``.
    """

    q: Tensor
    scale: Tensor
    bits: int
    zero_point: Tensor | None = None

    def values(self) -> Tensor:
        """The weight itself, float32."""
        q = self.q.reshape(len(self.scale), -1).float()
        if self.zero_point is not None:
            q = q - self.zero_point.float()
        return (q * self.scale).view(self.q.shape)


QuantizedWeight = Codebook | QuantGrid


@dataclass
class CompressedState:
    """The representation of all compressed tensors, by parameter name in the network (without the prefix ``model.``).

    Attributes:
        masks: bool, True where the entry is kept; all other entries are zero.
        codebooks, grids: quantized weights. A masked entry may have any index: the mask is applied last.
        steps: the changes of the network's architecture, in order, as plain values.
    """

    masks: dict[str, Tensor] = field(default_factory=dict)
    codebooks: dict[str, Codebook] = field(default_factory=dict)
    grids: dict[str, QuantGrid] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def add(self, name: str, quantized: QuantizedWeight) -> None:
        """Set the codebook or grid of a weight."""
        if isinstance(quantized, Codebook):
            self.codebooks[name] = quantized
        else:
            self.grids[name] = quantized

    def values(self, name: str, quantized: QuantizedWeight | None = None) -> Tensor:
        """A quantized weight with masked entries at zero: of its own codebook or grid, or of `quantized`."""
        weight = (quantized or self.codebooks.get(name) or self.grids[name]).values()
        return weight * self.masks[name].to(weight.device) if name in self.masks else weight

    def apply(self, model: nn.Module) -> None:
        """Set the network's parameters to the values of their codebook, grid and mask."""
        self.apply_to(dict(model.named_parameters()))

    @torch.no_grad()
    def apply_to(self, tensors: Mapping[str, Tensor]) -> None:
        """As `apply`, in place, for tensors by name."""
        made_of: dict[str, QuantizedWeight] = {**self.codebooks, **self.grids}
        for name, quantized in made_of.items():
            tensors[name].copy_(quantized.values())
        for name, mask in self.masks.items():
            tensors[name].mul_(mask.to(tensors[name].device))

    def plain_dict(self) -> PlainDict:
        """Tensors and plain values only, for a checkpoint."""
        return {
            "masks": self.masks,
            "codebooks": {k: {"indices": c.indices, "centroids": c.centroids} for k, c in self.codebooks.items()},
            "grids": {k: vars(g) for k, g in self.grids.items()},
            "steps": self.steps,
        }

    @classmethod
    def of(cls, plain_dict: PlainDict) -> "CompressedState":
        """The inverse of `plain_dict`."""
        return cls(
            dict(plain_dict["masks"]),
            {k: Codebook(**c) for k, c in plain_dict["codebooks"].items()},
            {k: QuantGrid(**g) for k, g in plain_dict["grids"].items()},
            list(plain_dict["steps"]),
        )

    def prefixed(self, prefix: str) -> "CompressedState":
        """The same for a module that has the network as its part `prefix`."""
        plain = self.plain_dict()
        renamed = {kind: {f"{prefix}.{k}": v for k, v in plain[kind].items()} for kind in plain if kind != "steps"}
        return CompressedState.of({**plain, **renamed})

    def replace(self, other: "CompressedState") -> None:
        """Become equal to `other`, as the same object."""
        self.masks, self.codebooks, self.grids, self.steps = other.masks, other.codebooks, other.grids, other.steps


def apply_steps(model: nn.Module, steps: Sequence[Step], example: Tensor) -> nn.Module:
    """Apply all steps to a network built from its config. Raises UserError for an unknown step."""
    for step in steps:
        if step.get("do") not in RESTORE_FUNCTIONS:
            raise UserError(f"the compressed model contains the unknown step '{step.get('do')}'; update Touchstone")
        module, _, function = RESTORE_FUNCTIONS[step["do"]].partition(":")
        restore: RestoreFunction = getattr(import_module(module), function)
        model = restore(model, step, example)
    return model
