"""Networks that score users and items: against their definitions in plain loops."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.model.lightgcn import LightGCN
from lightning_modules.zoo.model.matrix_factorization import BPRMatrixFactorization, NeuMF
from lightning_modules.zoo.model.sequential_recommender import SequentialRecommender

SIZES: dict[str, Any] = {"input_shape": [2], "num_users": 3, "num_items": 5}
EDGES = torch.tensor([[0, 0], [0, 1], [1, 1], [2, 3]])


def connected(**settings: Any) -> LightGCN:
    torch.manual_seed(0)
    model = LightGCN(**{**SIZES, "num_interactions": 4, "factors": 6, **settings})
    model.set_graph(EDGES)
    return model


def networks() -> list[Any]:
    torch.manual_seed(0)
    return [
        BPRMatrixFactorization(**SIZES, factors=4, bound=1.0),
        NeuMF(**SIZES, factors=4, layers=[6, 4], std=1.0),
        connected(),
    ]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_scores_of_all_items_are_those_of_the_pairs(place: int) -> None:
    model, users = networks()[place], torch.tensor([2, 0])
    one_by_one = [[model(torch.tensor([[user, item]])).item() for item in range(5)] for user in (2, 0)]
    assert torch.allclose(model.item_scores(users), torch.tensor(one_by_one), atol=1e-5)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_squares_are_those_of_the_embeddings_that_a_user_and_its_items_have(place: int) -> None:
    model = networks()[place]
    tables = {name: table.weight for name, table in model.named_modules() if isinstance(table, nn.Embedding)}
    wanted: Any = sum(w[1].square().sum() for name, w in tables.items() if name.startswith("user"))
    wanted = wanted + sum(w[[0, 3]].square().sum() for name, w in tables.items() if name.startswith("item"))
    assert torch.allclose(model.squared_norms(torch.tensor([1]), torch.tensor([[0, 3]])), wanted.reshape(1))


def test_light_graph_convolution_is_the_mean_of_normalised_neighbours() -> None:
    model = connected(layers=2)
    degree = torch.zeros(8)
    adjacency = torch.zeros(8, 8)
    for user, item in EDGES.tolist():
        adjacency[user, 3 + item] = adjacency[3 + item, user] = 1
        degree[user] += 1
        degree[3 + item] += 1
    scale = degree.clamp(min=1).rsqrt()
    step = scale[:, None] * adjacency * scale
    start = torch.cat([model.user_factors.weight, model.item_factors.weight])
    wanted = (start + step @ start + step @ step @ start) / 3
    users, items = model.propagate()
    assert torch.allclose(torch.cat([users, items]), wanted, atol=1e-6)


def test_its_gradient_is_that_of_the_dense_product() -> None:
    model = connected()
    pairs = torch.tensor([[0, 3], [1, 0], [2, 2]])
    weights = torch.tensor([[1.0], [-2.0], [3.0]])
    (model(pairs) * weights).sum().backward()
    step = model.graph().to_dense()
    start = torch.cat([model.user_factors.weight, model.item_factors.weight]).detach().requires_grad_()
    mean: Any = sum(torch.linalg.matrix_power(step, k) @ start for k in range(4)) / 4
    (((mean[pairs[:, 0]] * mean[3 + pairs[:, 1]]).sum(1, keepdim=True)) * weights).sum().backward()
    found = [model.user_factors.weight.grad, model.item_factors.weight.grad]
    assert start.grad is not None and found[0] is not None and found[1] is not None
    assert torch.allclose(found[0], start.grad[:3], atol=1e-6)
    assert torch.allclose(found[1], start.grad[3:], atol=1e-6)


def test_without_layers_it_is_matrix_factorisation() -> None:
    model = connected(layers=0)
    assert torch.equal(model.propagate()[0], model.user_factors.weight)


def test_the_graph_is_in_the_checkpoint_and_a_copy_has_its_own() -> None:
    model = connected()
    fresh = LightGCN(**SIZES, num_interactions=4, factors=6)
    empty = fresh(EDGES)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(EDGES), model(EDGES)) and not torch.equal(fresh(EDGES), empty)
    twin = copy.deepcopy(model)
    twin.set_graph(EDGES.roll(1, 1).clamp(max=2))
    assert not torch.equal(twin(EDGES), model(EDGES))
    with pytest.raises(UserError, match=r"num_interactions=4, but the training split has 3"):
        model.set_graph(EDGES[:3])


@pytest.mark.parametrize("kind", ["mean", "gru"])
def test_padding_does_not_move_the_scores_of_a_history(kind: Any) -> None:
    torch.manual_seed(0)
    model = SequentialRecommender([4], num_items=5, kind=kind, factors=6)
    short = model(torch.tensor([[3, 1]]))
    assert torch.allclose(model(torch.tensor([[0, 0, 3, 1], [0, 0, 0, 2]]))[:1], short, atol=1e-6)
    assert short.shape == (1, 5)
    assert torch.allclose(model(torch.zeros(1, 4, dtype=torch.int64)), model.bias[None]), "nothing is known"


def test_a_gru_reads_the_order_and_a_mean_does_not() -> None:
    torch.manual_seed(0)
    there, back = torch.tensor([[1, 2, 3]]), torch.tensor([[3, 2, 1]])
    mean, gru = (SequentialRecommender([3], num_items=5, kind=kind, factors=6) for kind in ("mean", "gru"))
    assert torch.allclose(mean(there), mean(back)) and not torch.allclose(gru(there), gru(back))


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        (BPRMatrixFactorization, {"input_shape": [64]}, "try data=movielens_implicit"),
        (NeuMF, {"num_users": None}, r"model\.num_users"),
        (NeuMF, {"layers": [7, 4]}, r"model\.layers"),
        (LightGCN, {}, r"model\.num_interactions"),
        (LightGCN, {"num_interactions": 4, "layers": -1}, r"LightGCN\.layers=-1"),
    ],
)
def test_mistakes_name_their_key(kind: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        kind(**{**SIZES, **settings})


def test_a_sequence_model_wants_histories_and_a_known_kind() -> None:
    with pytest.raises(UserError, match="try data=movielens_sequence"):
        SequentialRecommender([2, 3], num_items=4)
    with pytest.raises(UserError, match=r"SequentialRecommender\.kind=grus: did you mean 'gru'"):
        SequentialRecommender([3], num_items=4, kind="grus")  # type: ignore[arg-type]
