"""Half precision: what the network takes, gives and weighs."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.compression.quantization.half_precision import DTYPES, HalfPrecision, restore, to_half_precision
from lightning_modules.config.errors import UserError
from lightning_modules.model.mlp import MLP
from lightning_modules.task.profiling import model_size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["mlp", "lenet5", "resnet", "vit", "gru"])
def test_the_network_computes_in_half_precision_between_floats(
    bench: Callable[[str], Any], name: str, dtype: str
) -> None:
    made = bench(name)
    dense, size = made.accuracy(), model_size(made.model)["model/size_bytes"]
    names = [key for key, _ in made.model.named_parameters()]
    made.run(HalfPrecision(dtype))
    assert {parameter.dtype for parameter in made.model.parameters()} == {DTYPES[dtype]}
    assert made.model(made.data.val[0][:3]).dtype == torch.float32
    assert made.accuracy() > dense - 0.03
    assert model_size(made.model)["model/size_bytes"] < 0.51 * size
    assert [key for key, _ in made.model.named_parameters()] == names
    assert made.context.state.steps == [{"do": "half", "dtype": dtype}]


def test_a_restored_network_gives_the_same_logits(bench: Callable[[str], Any], learnt: Callable[[str], Any]) -> None:
    made = bench("mlp")
    made.run(HalfPrecision("bf16"))
    x = made.data.val[0][:5]
    other = restore(copy.deepcopy(learnt("mlp").model), made.context.state.steps[0], x[:1])
    other.load_state_dict(made.model.state_dict())
    made.model.eval(), other.eval()
    assert torch.equal(other(x), made.model(x))
    assert torch.equal(copy.deepcopy(other)(x), other(x))


def test_values_that_fp16_cannot_hold_are_refused_and_bf16_holds_them(bench: Callable[[str], Any]) -> None:
    made = bench("mlp")
    nn.init.constant_(made.model.head.bias, 1e5)
    with pytest.raises(UserError, match=r"stages.tested: dtype=fp16: head.bias has values beyond 65504; use bf16"):
        made.run(HalfPrecision("fp16"))
    assert made.model.head.bias.dtype == torch.float32
    made.run(HalfPrecision("bf16"))


class Cubic(nn.Module):
    """Holds a matrix whose inverse no half precision has."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.linalg.inv(self.matrix)


def test_categories_whose_numbers_are_not_exact_are_refused() -> None:
    for most, dtypes in ((257, ()), (258, ("bf16",)), (2050, ("bf16", "fp16"))):
        model = MLP((3,), 2, hidden=[4], category_sizes=[5, most])
        for dtype in DTYPES:
            if dtype in dtypes:
                with pytest.raises(UserError, match=f"a column has {most} categories, whose numbers are exact up to"):
                    HalfPrecision(dtype).check(model, torch.zeros(2, 3), 0)
            else:
                HalfPrecision(dtype).check(model, torch.zeros(2, 3), 0)


def test_an_operation_without_half_precision_is_refused_before_training() -> None:
    stage = HalfPrecision("bf16")
    stage.name = "half"
    with pytest.raises(UserError, match=r"stages.half: dtype=bf16: the network cannot run in this dtype: .*BFloat16"):
        stage.check(Cubic(), torch.randn(2, 3), 3)


def test_what_is_half_already_is_refused(bench: Callable[[str], Any]) -> None:
    stage = HalfPrecision("bf16")
    with pytest.raises(UserError, match="no float32 weight"):
        stage.check(to_half_precision(bench("mlp").model, torch.bfloat16), torch.randn(2, 1, 8, 8), 10)
    with pytest.raises(UserError, match="dtype=bf61: did you mean 'bf16'"):
        HalfPrecision("bf61")
