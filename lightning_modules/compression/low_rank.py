"""Low rank: a layer becomes two thinner ones, by the singular value decomposition of its weight."""

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_modules.compression.macs import macs, params
from lightning_modules.compression.meta import meta_copy
from lightning_modules.compression.stage import Kind, Stage, When, Work, weights_of
from lightning_modules.compression.structured.budget import cost_of, least_removed
from lightning_modules.errors import UserError

Ranks = dict[str, int]


class LowRank(Stage):
    """Replaces layers by the best approximation of a lower rank, where that saves, and the network stays what it was else.

    A linear layer [out, in] becomes in -> r -> out. A convolution becomes one of the same kernel to r channels and a
    1x1 convolution (Zhang et al. 2016, "Accelerating Very Deep Convolutional Networks", section 3.1, for linear
    responses; the SVD of the weight as [out, in * kernel]). Both factors get the square roots of the singular values.
    Grouped and transposed convolutions, recurrent layers and torch's own attention stay as they are.

    Args:
        energy: share of each layer's squared singular values that is kept, in (0, 1); or one of the budgets
        macs_ratio, params_ratio: the share of the network's cost that is kept, in (0, 1): the ranks are cut where a
            squared singular value, over the sum of its layer's, falls below one threshold for all layers.
        layers, exclude: names or patterns of layers.
    """

    kind: ClassVar[Kind] = "structure"

    def __init__(
        self,
        energy: float | None = None,
        macs_ratio: float | None = None,
        params_ratio: float | None = None,
        layers: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        when: When = "after",
        epochs: int = 0,
        lr: float | None = None,
    ) -> None:
        super().__init__(when, epochs, lr)
        given = {"energy": energy, "macs_ratio": macs_ratio, "params_ratio": params_ratio}
        self.goals = {name: value for name, value in given.items() if value is not None}
        self.layers, self.exclude = layers, list(exclude)
        self.ranks: Ranks = {}
        if when != "after":
            raise UserError(f"compression: when={when}: layers are replaced between fits: when=after")
        if len(self.goals) != 1:
            raise UserError("compression: low rank takes one of energy, macs_ratio, params_ratio")
        (name, value), *_ = self.goals.items()
        if not 0 < value < 1:
            raise UserError(f"compression: {name}={value}: it must lie in (0, 1)")

    def check(self, model: nn.Module, example: Tensor, num_outputs: int) -> None:
        """Refuse a network without a layer that could save, and a budget that rank 1 everywhere does not meet."""
        found = self._candidates(model)
        shell = meta_copy(model)
        try:
            with torch.no_grad():
                replaced = restore(copy.deepcopy(shell), {"ranks": dict.fromkeys(found, 1)}, example)
                replaced(example.to("meta"))
        except Exception as error:  # the network looks into its layers
            reason = "".join(str(error).splitlines()[:1])
            raise self.mistake(f"the network cannot do with pairs of layers ({reason}); exclude= them") from error
        (name, target), *_ = self.goals.items()
        if name != "energy":
            count = macs if name == "macs_ratio" else (lambda network, _: params(network))
            self._within_budget(count(replaced, example[:1]) / count(shell, example[:1]))

    def begin(self, work: Work) -> None:
        parts = {name: _svd(layer.weight) for name, layer in self._candidates(work.model).items()}
        self.ranks = self._saving(work.model, self._ranks(work, {name: values for name, (_, values, _) in parts.items()}))
        if not self.ranks:
            (name, value), *_ = self.goals.items()
            raise self.mistake(f"nothing was saved: {name}={value} leaves every layer a rank that costs more than the layer")
        before = meta_copy(work.model)
        restore(work.model, {"ranks": self.ranks}, work.example)
        for name, rank in self.ranks.items():
            _fill(work.model.get_submodule(name), *parts[name], rank)
        work.form.steps.append({"do": "low_rank", "ranks": self.ranks})
        self._report(work, before)

    def state_dict(self) -> dict[str, Any]:
        return {"ranks": self.ranks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.ranks = dict(state_dict["ranks"])

    def settings(self) -> dict[str, Any]:
        return {**self.goals, "ranks": self.ranks}

    def _candidates(self, model: nn.Module) -> dict[str, Any]:
        """The layers that may become pairs, by name."""
        try:
            names = [name.rpartition(".")[0] for name in weights_of(model, layers=self.layers, exclude=self.exclude)]
        except UserError as error:
            raise self.mistake(str(error)) from error
        inside = {id(layer) for m in model.modules() if isinstance(m, nn.MultiheadAttention) for layer in m.modules()}
        found = {name: model.get_submodule(name) for name in names}
        found = {name: layer for name, layer in found.items() if id(layer) not in inside and _most(layer) >= 1}
        if not found:
            raise self.mistake("no linear layer or convolution of this network would be smaller as a pair of rank 1")
        return found

    def _ranks(self, work: Work, spectra: dict[str, Tensor]) -> Ranks:
        shares = {name: values.square() / values.square().sum() for name, values in spectra.items()}
        (name, target), *_ = self.goals.items()
        if name == "energy":
            return {key: int((share.cumsum(0) < target).sum()) + 1 for key, share in shares.items()}
        shell, example = meta_copy(work.model), work.floats(work.example[:1])
        thresholds = torch.cat(list(shares.values())).unique().tolist()
        count = macs if name == "macs_ratio" else (lambda network, _: params(network))
        whole = count(shell, example)

        def at(index: int) -> Ranks:
            return {key: max(1, int((share > thresholds[index - 1]).sum())) for key, share in shares.items()}

        def cost(index: int) -> float:
            ranks = self._saving(shell, at(index))
            return count(restore(copy.deepcopy(shell), {"ranks": ranks}, example), example) / whole

        index, reached = least_removed(cost, len(thresholds), target)
        self._within_budget(reached)
        return at(index)

    def _saving(self, model: nn.Module, ranks: Ranks) -> Ranks:
        """Those of a rank at which the pair is smaller than the layer."""
        return {name: rank for name, rank in ranks.items() if rank <= _most(model.get_submodule(name))}

    def _within_budget(self, reached: float) -> None:
        (name, target), *_ = self.goals.items()
        if reached > target:
            raise self.mistake(f"{name}={target} cannot be met: the least that can be reached is {reached:.3f}, at rank 1")

    def _report(self, work: Work, before: nn.Module) -> None:
        example = work.floats(work.example[:1])
        work.log(
            {
                f"compression/{self.name}/reached_macs_ratio": macs(work.model, example) / macs(before, example),
                f"compression/{self.name}/reached_params_ratio": params(work.model) / params(before),
            }
        )


def restore(model: nn.Module, step: dict[str, Any], example: Tensor) -> nn.Module:
    """Put pairs of layers of the ranks that were found in the layers' places."""
    for name, rank in step["ranks"].items():
        model.set_submodule(name, _pair(model.get_submodule(name), rank))
    return model


def _most(layer: Any) -> int:
    """The largest rank at which the pair has fewer weights than the layer; 0 where it cannot be a pair."""
    if getattr(layer, "groups", 1) != 1 or getattr(layer, "padding_mode", "zeros") != "zeros":
        return 0
    outputs, inputs = layer.weight.shape[0], layer.weight[0].numel()
    return (outputs * inputs - 1) // (outputs + inputs)


def _pair(layer: Any, rank: int) -> nn.Sequential:
    """Two layers of the same type, device and mode of learning, not filled yet."""
    make: Any = type(layer)
    like: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    biased = layer.bias is not None
    if isinstance(layer, nn.Linear):
        first = nn.Linear(layer.in_features, rank, bias=False, **like)
        second: nn.Module = nn.Linear(rank, layer.out_features, bias=biased, **like)
    else:
        shape = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
        first = make(layer.in_channels, rank, layer.kernel_size, bias=False, **shape, **like)
        second = make(rank, layer.out_channels, 1, bias=biased, **like)
    return nn.Sequential(first, second).requires_grad_(layer.weight.requires_grad).train(layer.training)


def _svd(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U [out, k], the k singular values from the largest, V^T [k, in * kernel], in float64 on the CPU: equal on all ranks."""
    return torch.linalg.svd(weight.detach().double().cpu().flatten(1), full_matrices=False)
