"""Low-rank factorization: two thinner layers, from the SVD of a weight. Longer than 200 lines: stage and factors."""

import copy
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from lightning_modules.compression.compressed_state import Step
from lightning_modules.compression.profiling import count_macs, count_params, meta_copy
from lightning_modules.compression.stage import LayerStage, Settings, StageContext
from lightning_modules.compression.structured.budget_search import cost_counter, only_budget, search_budget
from lightning_modules.config.bounds import OpenFraction, bounded
from lightning_modules.config.plain import PlainDict

Ranks = dict[str, int]
FACTORIZABLE = (nn.Linear, nn.Conv1d, nn.Conv2d)


class LowRankFactorization(LayerStage):
    """Replaces layers by their best approximation of a lower rank, where that saves weights.

    A linear layer [out, in] becomes in -> r -> out. A convolution becomes one of the same kernel to r channels and a
    1x1 convolution (Zhang et al. 2016, "Accelerating Very Deep Convolutional Networks", section 3.1, for linear
    responses; the SVD of the weight as [out, in * kernel]). Both factors get the square roots of the singular values.
    Grouped and transposed convolutions, recurrent layers and torch's own attention are not replaced.

    Args:
        energy: the fraction of each layer's squared singular values to keep, in (0, 1); or one of the budgets
        macs_ratio, params_ratio: the fraction of the network's cost to keep, in (0, 1). It is met with the largest
            possible energy, the same in all layers.
        layers, exclude: see `LayerStage`.
    """

    kind = "structure"
    saved: ClassVar = {"ranks": "ranks"}

    @bounded
    def __init__(
        self,
        energy: OpenFraction | None = None,
        macs_ratio: OpenFraction | None = None,
        params_ratio: OpenFraction | None = None,
        when: Literal["after"] = "after",
        **fit: Any,
    ) -> None:
        super().__init__(when=when, **fit)
        self.goal, self.target = only_budget(
            "low rank", energy=energy, macs_ratio=macs_ratio, params_ratio=params_ratio
        )
        self.ranks: Ranks = {}

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        """Reject a network without a layer worth replacing, and a budget that rank 1 everywhere misses."""
        found = self._candidates(model)
        meta_model = meta_copy(model)
        try:
            with torch.no_grad():
                replaced = restore(copy.deepcopy(meta_model), {"ranks": dict.fromkeys(found, 1)}, example)
                replaced(example.to("meta"))
        except Exception as error:  # the network accesses attributes of its layers
            reason = "".join(str(error).splitlines()[:1])
            layers = ", ".join(self._read_by_the_network(meta_model, found, example)) or "a combination of layers"
            raise self.config_error(
                f"the network accesses the weights of layers that would be replaced ({reason}); exclude them with "
                f"exclude=[{layers}]"
            ) from error
        if self.goal != "energy":
            count = cost_counter(self.goal.removesuffix("_ratio"))
            self._within_budget(count(replaced, example[:1]) / count(meta_model, example[:1]))

    def _read_by_the_network(self, meta_model: nn.Module, found: PlainDict, example: Tensor) -> list[str]:
        """The layers that cannot be replaced, as patterns: ``*.qkv`` if that holds for all layers of this name."""
        failed = [name for name in found if not _runs_with_factored(meta_model, name, example)]
        kept = {name.rpartition(".")[2] for name in found.keys() - set(failed)}
        patterns = (f"*.{last}" if (last := name.rpartition(".")[2]) not in kept else name for name in failed)
        return list(dict.fromkeys(patterns))

    def begin(self, context: StageContext) -> None:
        layers = self._candidates(context.model)
        parts = {name: svd(layer.weight) for name, layer in layers.items()}
        ranks = self._ranks(context, {name: values for name, (_, values, _) in parts.items()})
        self.ranks = self._saving(context.model, ranks)
        if not self.ranks:
            raise self.config_error(
                f"nothing was saved: with {self.goal}={self.target} every layer keeps a rank that costs more than the layer"
            )
        before = meta_copy(context.model)
        restore(context.model, {"ranks": self.ranks}, context.example)
        for name, rank in self.ranks.items():
            load_factors(context.model.get_submodule(name), *parts[name], rank, layers[name].bias)
        context.state.steps.append({"do": "low_rank", "ranks": self.ranks})
        example, prefix = context.preprocess(context.example[:1]), f"compression/{self.name}"
        context.log(
            {
                f"{prefix}/reached_macs_ratio": count_macs(context.model, example) / count_macs(before, example),
                f"{prefix}/reached_params_ratio": count_params(context.model) / count_params(before),
            }
        )

    def settings(self) -> Settings:
        return {self.goal: self.target, "ranks": self.ranks}

    def _candidates(self, model: nn.Module) -> PlainDict:
        """The layers that can be factorized, by name."""
        names = [name.rpartition(".")[0] for name in self.weights(model)]
        found: PlainDict = {name: model.get_submodule(name) for name in names if name}
        found = {name: layer for name, layer in found.items() if max_useful_rank(layer) >= 1}
        if not found:
            raise self.config_error(
                "no linear layer or convolution would be smaller as two factors (recurrent layers are not supported)"
            )
        return found

    def _ranks(self, context: StageContext, spectra: dict[str, Tensor]) -> Ranks:
        kept = {key: (v.square().cumsum(0) / v.square().sum()).nan_to_num(1.0) for key, v in spectra.items()}

        def at(energy: float) -> Ranks:
            return {key: int((share < energy).sum()) + 1 for key, share in kept.items()}

        if self.goal == "energy":
            return at(self.target)
        meta_model, example = meta_copy(context.model), context.preprocess(context.example[:1])
        energies = torch.cat(list(kept.values())).unique().flip(0).tolist()
        count = cost_counter(self.goal.removesuffix("_ratio"))
        whole = count(meta_model, example)

        def cost(index: int) -> float:
            ranks = self._saving(meta_model, at(energies[index - 1]))
            return count(restore(copy.deepcopy(meta_model), {"ranks": ranks}, example), example) / whole

        index, reached = search_budget(cost, len(energies), self.target)
        self._within_budget(reached)
        return at(energies[index - 1])

    def _saving(self, model: nn.Module, ranks: Ranks) -> Ranks:
        """The ranks at which the two factors are smaller than the layer."""
        return {name: rank for name, rank in ranks.items() if rank <= max_useful_rank(model.get_submodule(name))}

    def _within_budget(self, reached: float) -> None:
        if reached > self.target:
            raise self.config_error(
                f"{self.goal}={self.target} cannot be met: the smallest reachable ratio is {reached:.3f}, at rank 1"
            )


def _runs_with_factored(meta_model: nn.Module, name: str, example: Tensor) -> bool:
    """Whether a network runs with one layer replaced by two factors."""
    try:
        with torch.no_grad():
            restore(copy.deepcopy(meta_model), {"ranks": {name: 1}}, example)(example.to("meta"))
    except Exception:
        return False
    return True


def restore(model: nn.Module, step: Step, example: Tensor) -> nn.Module:
    """Replace layers by two factors of the given ranks."""
    for name, rank in step["ranks"].items():
        model.set_submodule(name, factor_layers(model.get_submodule(name), rank))
    return model


# --- the two factors of a layer --------------------------------------------------------------------------------
def max_useful_rank(layer: nn.Module) -> int:
    """The largest rank at which two factors have fewer weights than `layer`; 0 if it cannot be factorized.

    Subclasses cannot, since they may use their weight differently (standardized, or read by torch's attention).
    """
    if (
        type(layer) not in FACTORIZABLE
        or getattr(layer, "groups", 1) != 1
        or getattr(layer, "padding_mode", "zeros") != "zeros"
    ):
        return 0
    weight = layer.get_parameter("weight")
    outputs, inputs = len(weight), weight[0].numel()
    return (outputs * inputs - 1) // (outputs + inputs)


def factor_layers(layer: Any, rank: int) -> nn.Sequential:
    """Two layers in place of `layer`, with uninitialized weights."""
    like: PlainDict = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    biased = layer.bias is not None
    if isinstance(layer, nn.Linear):
        first: nn.Module = skip_init(nn.Linear, layer.in_features, rank, bias=False, **like)
        second: nn.Module = skip_init(nn.Linear, rank, layer.out_features, bias=biased, **like)
    else:
        way = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
        first = skip_init(type(layer), layer.in_channels, rank, layer.kernel_size, bias=False, **way, **like)
        second = skip_init(type(layer), rank, layer.out_channels, 1, bias=biased, **like)
    return nn.Sequential(first, second).requires_grad_(layer.weight.requires_grad).train(layer.training)


def svd(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """SVD of a weight as [out, in * kernel] in float64: U [out, k], singular values [k], V^T [k, in * kernel]."""
    return torch.linalg.svd(weight.detach().double().flatten(1), full_matrices=False)


@torch.no_grad()
def load_factors(layers: nn.Module, u: Tensor, values: Tensor, v: Tensor, rank: int, bias: Tensor | None) -> None:
    """Set two factors to the first `rank` components of an SVD, each with the square roots of the singular values."""
    root = values[:rank].sqrt()
    first, second = (part.get_parameter("weight") for part in layers.children())
    first.copy_((root[:, None] * v[:rank]).view_as(first))
    second.copy_((u[:, :rank] * root).view_as(second))
    if bias is not None:
        layers.get_parameter("1.bias").copy_(bias)
