"""Steps of LAMB, worked out by hand."""

import math
from typing import Any

import pytest
import torch
from timm.optim.lamb import Lamb
from torch import nn

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.optimizer.large_batch import LAMB


def parameter(values: list[list[float]] | list[float], gradient: list[list[float]] | list[float]) -> nn.Parameter:
    made = nn.Parameter(torch.tensor(values, dtype=torch.float64))
    made.grad = torch.tensor(gradient, dtype=torch.float64)
    return made


def test_the_first_step_goes_by_signs_and_has_the_size_of_the_weights() -> None:
    # Adam's corrected first step is the sign of the gradient, of norm sqrt(2); ||w|| = 5
    w = parameter([[3.0, 4.0]], [[0.01, -70.0]])
    LAMB([w], lr=0.1, eps=0.0, weight_decay=0.0).step()
    size = 0.1 * 5 / math.sqrt(2)
    assert w.tolist() == [pytest.approx([3 - size, 4 + size], abs=1e-12)]


def test_decay_is_part_of_the_step_that_is_scaled() -> None:
    # u = (1, -1) + 0.5 * (3, 4) = (2.5, 1.0); the step is 0.1 * 5 / ||u|| * u
    w = parameter([[3.0, 4.0]], [[0.01, -70.0]])
    LAMB([w], lr=0.1, eps=0.0, weight_decay=0.5).step()
    size = 0.1 * 5 / math.hypot(2.5, 1.0)
    assert w.tolist() == [pytest.approx([3 - size * 2.5, 4 - size * 1.0], abs=1e-12)]


def test_the_second_step_has_the_moments_of_both_gradients() -> None:
    w = parameter([[2.0]], [[1.0]])
    optimizer = LAMB([w], lr=0.1, betas=(0.5, 0.75), eps=1.0, weight_decay=0.0)
    optimizer.step()  # one number: a step is lr * |w| in the direction of -m
    assert w.item() == pytest.approx(1.8)
    w.grad = torch.tensor([[-3.0]], dtype=torch.float64)
    optimizer.step()  # m = 0.5 * 0.5 - 0.5 * 3 = -1.25: up
    assert w.item() == pytest.approx(1.98)
    state = optimizer.state[w]
    assert (state["exp_avg"].item(), state["exp_avg_sq"].item()) == pytest.approx((-1.25, 0.75 * 0.25 + 0.25 * 9))


def test_a_vector_takes_a_step_of_adamw_unless_it_is_asked_for() -> None:
    start, gradient = [3.0, 4.0], [0.2, -0.4]
    settings: dict[str, Any] = {"lr": 0.1, "eps": 1e-6, "weight_decay": 0.3}
    ours, theirs = parameter(start, gradient), parameter(start, gradient)
    mine, other = LAMB([ours], **settings), torch.optim.AdamW([theirs], **settings)
    for _ in range(3):
        mine.step()
        other.step()
    assert torch.allclose(ours, theirs, atol=1e-12)
    adapted = parameter(start, gradient)
    LAMB([adapted], lr=0.1, weight_decay=0.0, adapt_vectors=True).step()
    assert float((adapted.detach() - torch.tensor(start)).norm()) == pytest.approx(0.5)


def test_zero_weights_take_a_step_of_adam() -> None:
    w = parameter([[0.0, 0.0]], [[1.0, -2.0]])
    LAMB([w], lr=0.1, eps=0.0).step()
    assert w.tolist() == [pytest.approx([-0.1, 0.1])]


def test_twenty_steps_are_those_of_timm_without_its_clipping() -> None:
    torch.manual_seed(0)
    start = torch.randn(5, 4, dtype=torch.float64)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings = {"lr": 0.05, "betas": (0.9, 0.99), "weight_decay": 0.02, "eps": 1e-6}
    mine, other = LAMB([ours], **settings), Lamb([theirs], max_grad_norm=None, **settings)
    for _ in range(20):
        for w, optimizer in ((ours, mine), (theirs, other)):
            optimizer.zero_grad()
            (w.sin() + 0.1 * w**2).sum().backward()
            optimizer.step()
    assert float((ours - theirs).detach().abs().max()) < 1e-12
    assert float((ours - start).detach().abs().max()) > 0.1


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"betas": (0.9, 1.0)}, {"weight_decay": -0.1}, {"eps": -1e-6}])
def test_settings_out_of_range_are_named(wrong: dict[str, Any]) -> None:
    [name] = wrong
    with pytest.raises(UserError, match=rf"^LAMB\.{name}=.*: expected "):
        LAMB([nn.Parameter(torch.ones(1))], **wrong)
