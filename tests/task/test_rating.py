"""Matrix factorisation: what one rating moves, what is penalised, and the scale."""

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.model.matrix_factorization import MatrixFactorization
from lightning_modules.zoo.task.rating import Rating

PAIRS, STARS = torch.tensor([[1, 2], [0, 0]]), torch.tensor([5.0, 1.0])


def network(**settings: object) -> MatrixFactorization:
    torch.manual_seed(0)
    return MatrixFactorization(
        **{"input_shape": [2], "num_users": 2, "num_items": 3, "mean": 3.5, "factors": 4, **settings}
    )  # type: ignore[arg-type]


def rating(model: nn.Module, **settings: float) -> Rating:
    return Rating(model, nn.MSELoss(), **settings)  # type: ignore[arg-type]


def batch_of(pairs: Tensor, stars: Tensor) -> dict[str, Tensor]:
    return {"x": pairs, "y": stars, "index": torch.arange(len(stars))}


def test_a_step_on_one_rating_is_that_of_the_published_rule() -> None:
    model = network()
    task = rating(model, pair_decay=0.02)
    p, q = model.user_factors.weight[1].detach().clone(), model.item_factors.weight[2].detach().clone()
    error = 5 - 3.5 - p @ q
    task.training_loss(batch_of(PAIRS[:1], STARS[:1]), 0).backward()
    torch.optim.SGD(model.parameters(), lr=0.005 / 2).step()  # the loss is not halved
    assert torch.allclose(model.user_factors.weight[1], p + 0.005 * (error * q - 0.02 * p))
    assert torch.allclose(model.item_factors.weight[2], q + 0.005 * (error * p - 0.02 * q))
    assert torch.allclose(model.user_bias.weight[:, 0], torch.stack([torch.zeros(()), 0.005 * error]))


def test_biases_descend_to_the_solution_of_alternating_least_squares() -> None:
    model = network(factors=0)
    task = rating(model, user_decay=15.0, item_decay=10.0)
    generator = torch.Generator().manual_seed(1)
    pairs = torch.stack([torch.randint(2, (40,), generator=generator), torch.randint(3, (40,), generator=generator)], 1)
    stars = torch.randint(1, 6, (40,), generator=generator).float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        task.training_loss(batch_of(pairs, stars), 0).backward()
        optimizer.step()
    user, item = torch.zeros(2), torch.zeros(3)
    for _ in range(30):
        rest = (stars - 3.5 - user[pairs[:, 0]]).double()
        item = (torch.bincount(pairs[:, 1], rest, 3) / (10 + torch.bincount(pairs[:, 1], minlength=3))).float()
        rest = (stars - 3.5 - item[pairs[:, 1]]).double()
        user = (torch.bincount(pairs[:, 0], rest, 2) / (15 + torch.bincount(pairs[:, 0], minlength=2))).float()
    assert torch.allclose(model.user_bias.weight[:, 0], user, atol=1e-5)
    assert torch.allclose(model.item_bias.weight[:, 0], item, atol=1e-5)


def test_predictions_are_cut_to_the_scale_where_they_are_measured() -> None:
    task = rating(network(mean=7.0, factors=0))
    assert task(PAIRS).tolist() == [[7.0], [7.0]]
    assert task.scores(task(PAIRS)).tolist() == [5.0, 5.0]
    assert float(task.evaluation_loss(task(PAIRS).detach(), STARS)) == pytest.approx((0 + 16) / 2)
    assert float(task.training_loss(batch_of(PAIRS, STARS), 0).detach()) == pytest.approx((4 + 36) / 2)


def test_mistakes_name_their_key() -> None:
    with pytest.raises(UserError, match="try data=movielens"):
        network(input_shape=[64])
    with pytest.raises(UserError, match=r"model.num_users"):
        network(num_users=None)
    with pytest.raises(UserError, match=r"task.scale"):
        rating(network(), scale=[5, 1])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="Linear has no squared_norms"):
        rating(nn.Linear(2, 1), pair_decay=0.1)
