"""Negatives and positives that are drawn: never what a user has met, as often as asked, the same for the same generator."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules.augmentation.interactions.pair_transforms import NegativeSampling, RatingNoise, UniformUsers
from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data.interaction_splits import interaction_matrix

# user 0 has met four of six items, user 1 one, user 2 two; item 5 nobody
PAIRS = torch.tensor([[0, 0], [0, 1], [0, 2], [0, 3], [1, 0], [2, 0], [2, 4]])


def data_of(pairs: Tensor = PAIRS, items: int = 6) -> Any:
    arrays = SimpleNamespace(x=pairs, y=torch.arange(len(pairs)).float())
    met = interaction_matrix(pairs, int(pairs[:, 0].max()) + 1, items)
    return SimpleNamespace(
        name="made", input_shape=(2,), arrays=arrays, splits={"train": torch.arange(len(pairs))}, known=lambda part: met
    )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(users: Tensor) -> dict[str, Tensor]:
    return {
        "x": torch.stack([users, torch.zeros_like(users)], 1),
        "y": torch.ones(len(users)),
        "index": torch.arange(len(users)),
    }


def sampled(users: Tensor, seed: int = 0, **settings: Any) -> Tensor:
    sampling = NegativeSampling(**settings)
    sampling.prepare(data_of())
    return sampling(batch_of(users), generator(seed))["negatives"]


@pytest.mark.parametrize("popularity", [0.0, 0.75])
def test_no_negative_has_been_met_in_training(popularity: float) -> None:
    users = torch.arange(3).repeat(500)
    negatives = sampled(users, count=4, popularity=popularity)
    assert negatives.shape == (1500, 4) and negatives.dtype == torch.int64
    assert not interaction_matrix(PAIRS, 3, 6)[users[:, None], negatives].any()


def test_uniform_negatives_are_uniform_over_what_is_left() -> None:
    counts = sampled(torch.ones(2000, dtype=torch.int64), count=5).flatten().bincount(minlength=6)
    assert counts[0] == 0 and (counts[1:] - 2000).abs().max() < 200


def test_popular_items_are_drawn_by_their_power_and_unknown_ones_never() -> None:
    counts = sampled(torch.full((9000,), 2), popularity=0.75).flatten().bincount(minlength=6)
    assert counts[[0, 4, 5]].sum() == 0 and (counts[1:4] - 3000).abs().max() < 250
    pairs = torch.tensor([[0, 0], [1, 1], [2, 1], [3, 1], [4, 2]])
    sampling = NegativeSampling(popularity=0.75)
    sampling.prepare(data_of(pairs, 3))
    drawn = sampling(batch_of(torch.full((9000,), 4)), generator())["negatives"].flatten().bincount(minlength=3)
    assert float(drawn[1] / drawn[0]) == pytest.approx(3**0.75, rel=0.08)


def test_one_item_left_among_thousands_is_found() -> None:
    met = torch.ones(1, 5000, dtype=torch.bool)
    met[0, 77] = False
    sampling = NegativeSampling(count=2)
    sampling.set_interactions(met)
    assert sampling(batch_of(torch.zeros(3, dtype=torch.int64)), generator())["negatives"].eq(77).all()
    with pytest.raises(UserError, match="user 0 has interacted with every item"):
        sampling.set_interactions(torch.ones(1, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    "transform", [NegativeSampling(count=3), NegativeSampling(popularity=0.5), UniformUsers(0.5), RatingNoise()]
)
def test_the_same_generator_gives_the_same_batch_and_nothing_else_is_touched(transform: Any) -> None:
    if hasattr(transform, "prepare"):
        transform.prepare(data_of())
    batch = batch_of(torch.arange(3).repeat(20))
    kept, state = {key: value.clone() for key, value in batch.items()}, torch.get_rng_state()
    one, same, other = (transform(batch, generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)
    assert torch.equal(torch.get_rng_state(), state)
    assert batch.keys() == kept.keys() and all(torch.equal(batch[key], kept[key]) for key in kept)
    single = transform({key: value[:1] for key, value in batch.items()}, generator())
    assert all(len(value) == 1 for value in single.values())


def test_uniform_users_are_as_often_each_and_bring_an_item_and_rating_of_theirs() -> None:
    transform = UniformUsers()
    transform.prepare(data_of())
    out = transform(batch_of(torch.zeros(9000, dtype=torch.int64)), generator())
    assert (out["x"][:, 0].bincount() - 3000).abs().max() < 250
    row = out["y"].long()
    assert torch.equal(PAIRS[row], out["x"])
    of_first = row[out["x"][:, 0] == 0].bincount(minlength=4)
    assert (of_first - 750).abs().max() < 120


def test_uniform_users_replace_a_pair_with_their_probability() -> None:
    transform = UniformUsers(0.3)
    transform.prepare(data_of())
    out = transform({**batch_of(torch.full((5000,), 1)), "y": torch.full((5000,), -1.0)}, generator())
    assert float((out["y"] >= 0).float().mean()) == pytest.approx(0.3, abs=0.03)


def test_noise_in_ratings_has_its_spread_and_stays_on_the_scale() -> None:
    y = torch.full((20_000,), 3.0)
    noisy = RatingNoise(std=0.5)({"y": y}, generator())["y"]
    assert float(noisy.std()) == pytest.approx(0.5, rel=0.05) and float(noisy.mean()) == pytest.approx(3.0, abs=0.02)
    assert noisy.dtype == torch.float32
    edge = RatingNoise(std=1.0)({"y": torch.tensor([1.0, 5.0]).repeat(1000)}, generator())["y"]
    assert float(edge.min()) == 1 and float(edge.max()) == 5
    some = RatingNoise(std=0.5, probability=0.25)({"y": y}, generator())["y"]
    assert float((some != y).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert RatingNoise()({"y": y.half()}, generator())["y"].dtype == torch.float16


def test_wrong_settings_and_data_are_told() -> None:
    for build, said in (
        (lambda: NegativeSampling(count=0), "count=0"),
        (lambda: NegativeSampling(popularity=-1), "popularity=-1"),
        (lambda: UniformUsers(2), "probability=2"),
        (lambda: RatingNoise(std=-1), "std=-1"),
        (lambda: RatingNoise(scale=[5, 1]), r"scale=\[5, 1\]"),
        (lambda: RatingNoise(probability=-0.1), "probability=-0.1"),
        (lambda: NegativeSampling()(batch_of(torch.zeros(2).long()), generator()), r"call prepare\(datamodule\) first"),
        (lambda: NegativeSampling()({"x": torch.zeros(2, 3, 8, 8)}, generator()), "pairs"),
        (lambda: NegativeSampling().prepare(SimpleNamespace(name="digits", input_shape=(64,))), "movielens_implicit"),
        (lambda: UniformUsers().prepare(SimpleNamespace(name="digits", input_shape=(64,))), "not digits"),
        (lambda: RatingNoise()({"y": torch.zeros(3).long()}, generator()), "try data=movielens"),
    ):
        with pytest.raises(UserError, match=said):
            build()


@pytest.mark.gpu
@pytest.mark.parametrize("transform", [NegativeSampling(count=4), UniformUsers(), RatingNoise(0.5)], ids=repr)
def test_a_gpu_gives_the_batch_that_a_cpu_gives(transform: Any) -> None:
    if hasattr(transform, "prepare"):
        transform.prepare(data_of())
    batch = batch_of(torch.arange(3).repeat(50))
    here = transform(batch, generator(1))
    there = transform({key: value.cuda() for key, value in batch.items()}, generator(1))
    for key, value in here.items():
        assert there[key].is_cuda
        assert torch.equal(there[key].cpu(), value), key
