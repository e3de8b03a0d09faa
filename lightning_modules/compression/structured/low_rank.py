"""Low-rank factorization: replaces a layer by two thinner ones, from the SVD of its weight."""

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lightning_modules.compression.compressed_state import Step
from lightning_modules.compression.macs import count_macs, count_params, meta_copy
from lightning_modules.compression.stage import Kind, Settings, Stage, StageContext, StateDict, layer_weights
from lightning_modules.compression.structured.budget_search import cost_counter, search_budget
from lightning_modules.compression.structured.low_rank_factor import factor_layers, load_factors, max_useful_rank, svd
from lightning_modules.config.bounds import OpenFraction, bounded
from lightning_modules.config.errors import UserError

Ranks = dict[str, int]


class LowRankFactorization(Stage):
    """Replaces layers by their best approximation of a lower rank, where that saves weights.

    A linear layer [out, in] becomes in -> r -> out. A convolution becomes one of the same kernel to r channels and a
    1x1 convolution (Zhang et al. 2016, "Accelerating Very Deep Convolutional Networks", section 3.1, for linear
    responses; the SVD of the weight as [out, in * kernel]). Both factors get the square roots of the singular values.
    Grouped and transposed convolutions, recurrent layers and torch's own attention are not replaced.

    Args:
        energy: the fraction of each layer's squared singular values to keep, in (0, 1); or one of the budgets
        macs_ratio, params_ratio: the fraction of the network's cost to keep, in (0, 1). It is met with the largest
            possible energy, the same in all layers.
        layers, exclude: names or patterns of layers.
    """

    kind: ClassVar[Kind] = "structure"

    @bounded
    def __init__(
        self,
        energy: OpenFraction | None = None,
        macs_ratio: OpenFraction | None = None,
        params_ratio: OpenFraction | None = None,
        layers: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        when: Literal["after"] = "after",
        epochs: int = 0,
        lr: float | None = None,
    ) -> None:
        super().__init__(when, epochs, lr)
        given = {"energy": energy, "macs_ratio": macs_ratio, "params_ratio": params_ratio}
        goals = [(name, value) for name, value in given.items() if value is not None]
        self.layers, self.exclude = layers, list(exclude)
        self.ranks: Ranks = {}
        if len(goals) != 1:
            raise UserError("compression: low rank needs exactly one of energy, macs_ratio, params_ratio")
        ((self.goal, self.target),) = goals

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

    def _read_by_the_network(self, meta_model: nn.Module, found: dict[str, Any], example: Tensor) -> list[str]:
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
        self._report(context, before)

    def state_dict(self) -> StateDict:
        return {"ranks": self.ranks}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self.ranks = dict(state_dict["ranks"])

    def settings(self) -> Settings:
        return {self.goal: self.target, "ranks": self.ranks}

    def _candidates(self, model: nn.Module) -> dict[str, Any]:
        """The layers that can be factorized, by name."""
        try:
            names = [name.rpartition(".")[0] for name in layer_weights(model, layers=self.layers, exclude=self.exclude)]
        except UserError as error:
            raise self.config_error(str(error)) from error
        found: dict[str, Any] = {name: model.get_submodule(name) for name in names if name}
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

    def _report(self, context: StageContext, before: nn.Module) -> None:
        example = context.preprocess(context.example[:1])
        context.log(
            {
                f"compression/{self.name}/reached_macs_ratio": count_macs(context.model, example)
                / count_macs(before, example),
                f"compression/{self.name}/reached_params_ratio": count_params(context.model) / count_params(before),
            }
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
