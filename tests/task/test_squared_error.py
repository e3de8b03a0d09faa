"""The squared error of sigmoid units with its margin."""

import pytest
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.task.hinge import MarginSquaredError


def test_errors_below_the_margin_are_none_and_the_others_count_whole() -> None:
    outputs = torch.tensor([[0.9, 0.5], [0.3, 0.9]])
    loss = MarginSquaredError(0.2)(outputs.logit(), torch.tensor([0, 1]))
    # errors -0.1 and 0.5; 0.3 and -0.1: those of 0.1 are left out; half the sum over units, mean over samples
    assert float(loss) == pytest.approx(0.5 * (0.5**2 + 0.3**2) / 2)


def test_the_gradient_is_the_error_times_the_slope_of_the_sigmoid() -> None:
    logits = torch.tensor([[0.4, -3.0, 0.1]], requires_grad=True)
    MarginSquaredError(0.2)(logits, torch.tensor([0])).backward()
    o = logits.detach().sigmoid()
    error = o - torch.tensor([[1.0, 0.0, 0.0]])
    error[0, 1] = 0.0  # sigmoid(-3) = 0.05
    assert torch.allclose(logits.grad, error * o * (1 - o))


def test_a_margin_outside_its_range_is_refused() -> None:
    with pytest.raises(UserError, match=r"MarginSquaredError.margin=1.0: expected"):
        MarginSquaredError(1.0)
