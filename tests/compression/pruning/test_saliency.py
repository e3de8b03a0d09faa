"""Scores against numbers worked out by hand."""

from typing import Any

import pytest
import torch
from torch import nn

from lightning_modules.compression.pruning.saliency import magnitude, mean_over_batches, snip, taylor, uniform_scores
from lightning_modules.config.errors import UserError
from lightning_modules.task.regression import Regression
from lightning_modules.zoo.model.convnets import CifarResNet


def line(work_on: Any) -> tuple[Any, dict[str, Any]]:
    """y' = v (u x) with u = 2, v = -3 and the loss (y' - y)^2, on the batches (x, y) = (1, 0) and (2, 3)."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(2.0)
        model[1].weight.fill_(-3.0)
    context = work_on(model, (1,))
    context.task = Regression(model, nn.MSELoss(), num_outputs=1)
    data = [{"x": torch.tensor([[x]]), "y": torch.tensor([[y]])} for x, y in ((1.0, 0.0), (2.0, 3.0))]
    context.batches = lambda: iter(data)
    return context, dict(model.named_parameters())


def test_magnitude_is_the_absolute_value(work_on: Any) -> None:
    context, weights = line(work_on)
    assert {name: float(score) for name, score in magnitude(context, weights, 1).items()} == {
        "0.weight": 2,
        "1.weight": 3,
    }


def test_snip_and_taylor_are_what_they_are_by_hand(work_on: Any) -> None:
    # y' = -6, -12; dL/dy' = 2 (y' - y) = -12, -30; dy'/du = v x, dy'/dv = u x
    du, dv = (-12 * -3 * 1, -30 * -3 * 2), (-12 * 2 * 1, -30 * 2 * 2)
    context, weights = line(work_on)
    by_snip, by_taylor = snip(context, weights, 8), taylor(context, weights, 8)
    assert float(by_snip["0.weight"]) == pytest.approx(2 * sum(du) / 2)
    assert float(by_snip["1.weight"]) == pytest.approx(abs(-3 * sum(dv) / 2))
    assert float(by_taylor["0.weight"]) == pytest.approx(sum((2 * d) ** 2 for d in du) / 2)
    assert float(by_taylor["1.weight"]) == pytest.approx(sum((-3 * d) ** 2 for d in dv) / 2)
    assert float(taylor(context, weights, 1)["0.weight"]) == pytest.approx((2 * du[0]) ** 2)


def test_gradients_leave_no_trace(work_on: Any) -> None:
    model = CifarResNet((1, 8, 8), 3, depth=8)
    model.head.weight.requires_grad_(False)
    model.stem.eval()
    context = work_on(model, (1, 8, 8))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    scores = snip(context, {"head.weight": model.head.weight, "stem.0.weight": model.stem[0].weight}, 2)
    assert all(score.count_nonzero() > 0 for score in scores.values())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert not model.head.weight.requires_grad and model.stem[0].weight.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_random_scores_follow_the_seed(work_on: Any) -> None:
    weights = {"a": torch.zeros(4, 4), "b": torch.zeros(4, 4)}
    once, again, other = uniform_scores(weights, 1), uniform_scores(weights, 1), uniform_scores(weights, 2)
    assert torch.equal(once["a"], again["a"]) and not torch.equal(once["a"], other["a"])
    assert not torch.equal(once["a"], once["b"])


def test_no_batch_is_refused(work_on: Any) -> None:
    context, weights = line(work_on)
    context.batches = lambda: iter(())
    with pytest.raises(UserError, match="need training batches"):
        mean_over_batches(context, weights, 1, lambda w, g: g)
