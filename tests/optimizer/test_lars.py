"""Steps of LARS, worked out by hand."""

import pytest
import torch
from timm.optim.lars import Lars
from torch import Tensor, nn

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.optimizer.large_batch import LARS


def parameter(values: list[list[float]] | list[float], gradient: list[list[float]] | list[float]) -> nn.Parameter:
    made = nn.Parameter(torch.tensor(values, dtype=torch.float64))
    made.grad = torch.tensor(gradient, dtype=torch.float64)
    return made


def test_a_step_has_the_size_of_the_weights_and_not_of_the_gradient() -> None:
    # ||w|| = 5, ||g|| = 10: the local rate is 0.1 * 5 / 10 = 0.05, the step 2 * 0.05 * g
    for scale in (1.0, 100.0):
        w = parameter([[3.0, 4.0]], [[6.0 * scale, 8.0 * scale]])
        LARS([w], lr=2.0, momentum=0.0, trust=0.1).step()
        assert w.tolist() == [pytest.approx([2.4, 3.2], abs=1e-15)]


def test_decay_adds_to_the_gradient_and_its_norm_to_the_gradients() -> None:
    # ||g|| + 0.5 ||w|| = 12.5: the local rate is 0.1 * 5 / 12.5 = 0.04; g + 0.5 w = (8 + 1.5, -6 + 2)
    w = parameter([[3.0, 4.0]], [[8.0, -6.0]])
    LARS([w], lr=1.0, momentum=0.0, weight_decay=0.5, trust=0.1).step()
    assert w.tolist() == [pytest.approx([3 - 0.04 * 9.5, 4 + 0.04 * 4.0], abs=1e-15)]


def test_momentum_remembers_steps_at_the_rate_that_they_were_taken_at() -> None:
    w = parameter([[3.0, 4.0]], [[6.0, 8.0]])
    optimizer = LARS([w], lr=2.0, momentum=0.5, trust=0.1)
    optimizer.step()  # v = (0.6, 0.8), w = (2.4, 3.2), whose norm is 4
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()  # v = (0.3, 0.4)
    assert w.tolist() == [pytest.approx([2.1, 2.8], abs=1e-15)]
    optimizer.param_groups[0]["lr"] = 1.0
    optimizer.step()  # ||w|| = 3.5: v = (0.15, 0.2) + 0.1 * 3.5 / 10 * (6, 8)
    assert w.tolist() == [pytest.approx([2.1 - 0.15 - 0.21, 2.8 - 0.2 - 0.28], abs=1e-15)]


def test_a_vector_takes_a_step_of_sgd_unless_it_is_asked_for() -> None:
    plain, adapted = (parameter([3.0, 4.0], [6.0, 8.0]) for _ in range(2))
    LARS([plain], lr=0.1, momentum=0.0).step()
    LARS([adapted], lr=2.0, momentum=0.0, trust=0.1, adapt_vectors=True).step()
    assert plain.tolist() == pytest.approx([2.4, 3.2])
    assert adapted.tolist() == pytest.approx([2.4, 3.2])


@pytest.mark.parametrize(("weights", "gradient"), [([[0.0, 0.0]], [[1.0, 2.0]]), ([[1.0, 2.0]], [[0.0, 0.0]])])
def test_where_a_norm_is_zero_the_step_is_not_scaled(weights: list[list[float]], gradient: list[list[float]]) -> None:
    w = parameter(weights, gradient)
    LARS([w], lr=0.5, momentum=0.0, weight_decay=0.2).step()
    wanted = [[a - 0.5 * (b + 0.2 * a) for a, b in zip(weights[0], gradient[0], strict=True)]]
    assert torch.allclose(w, torch.tensor(wanted, dtype=torch.float64))


def test_at_a_constant_rate_twenty_steps_are_those_of_timm() -> None:
    torch.manual_seed(0)
    start = torch.randn(5, 4, dtype=torch.float64)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings = {"lr": 0.7, "momentum": 0.9, "weight_decay": 0.01}
    mine = LARS([ours], trust=0.02, **settings)
    other = Lars([theirs], trust_coeff=0.02, eps=0.0, always_adapt=True, **settings)
    for _ in range(20):
        for w, optimizer in ((ours, mine), (theirs, other)):
            optimizer.zero_grad()
            bowl(w).backward()
            optimizer.step()
    assert float((ours - theirs).detach().abs().max()) < 1e-13
    assert float((ours - start).detach().abs().max()) > 0.1


def bowl(w: Tensor) -> Tensor:
    return (w.sin() + 0.1 * w**2).sum()


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"momentum": 1.0}, {"weight_decay": -0.1}, {"trust": -0.001}])
def test_settings_out_of_range_are_named(wrong: dict[str, float]) -> None:
    [name] = wrong
    with pytest.raises(UserError, match=rf"^LARS\.{name}=.*: expected "):
        LARS([nn.Parameter(torch.ones(1))], **wrong)
