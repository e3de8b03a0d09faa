"""Interactions of small files in the format of u.data: what is held out, and what is known of whom."""

from pathlib import Path

import pytest
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data.interaction_splits import (
    TEST,
    TRAIN,
    VAL,
    split_at_random,
    split_by_time,
    split_leave_one_out,
)
from lightning_modules.zoo.data.movielens import MovieLens, MovieLensImplicit
from lightning_modules.zoo.data.movielens_sequence import MovieLensSequence

# user, film, stars, second: user 1 has four, user 2 two, user 3 one
ROWS = [
    (1, 10, 5, 400), (2, 20, 4, 150), (1, 20, 2, 100), (1, 30, 4, 300), (3, 40, 5, 50), (1, 40, 3, 200), (2, 10, 1, 160),
]  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "ml-100k").mkdir()
    lines = ("\t".join(map(str, row)) for row in ROWS)
    (tmp_path / "ml-100k" / "u.data").write_text("\n".join(lines) + "\n")
    return tmp_path


def pairs(data: MovieLensImplicit, part: str) -> list[list[int]]:
    x = data.arrays.test[0] if part == "test" and data.arrays.test else data.arrays.x
    return torch.as_tensor(x)[data.splits[part]].tolist()


def test_the_latest_of_each_user_is_tested_and_the_one_before_validates(root: Path) -> None:
    data = MovieLensImplicit(root=root)
    data.setup()
    assert pairs(data, "test") == [[0, 0], [1, 0]]
    assert pairs(data, "val") == [[0, 2]], "of two there is no validation, else nothing would train"
    assert pairs(data, "train") == [[0, 1], [0, 3], [1, 1], [2, 3]], "a user with one item stays in training"


def test_without_a_validation_share_the_one_before_trains(root: Path) -> None:
    data = MovieLensImplicit(root=root, val_fraction=0.0)
    data.setup()
    assert [0, 2] in pairs(data, "train") and not len(data.splits["val"])


def test_low_ratings_are_no_interactions_and_films_keep_their_numbers(root: Path) -> None:
    data = MovieLensImplicit(root=root, min_rating=4)
    data.setup()
    assert pairs(data, "test") == [[0, 0]]
    assert pairs(data, "train") == [[0, 2], [1, 1], [2, 3]]
    assert data.num_items == 4 and data.model_settings()["num_interactions"] == 3
    with pytest.raises(UserError, match=r"data\.min_rating=6.*highest rating is 5"):
        MovieLensImplicit(root=root, min_rating=6).setup()


def test_what_is_known_is_what_is_in_no_part_measured_now_or_later(root: Path) -> None:
    data = MovieLensImplicit(root=root)
    data.setup()
    assert data.known("train")[0].tolist() == [False, True, False, True]
    assert data.known("val")[0].tolist() == [False, True, False, True]
    assert data.known("test")[0].tolist() == [False, True, True, True]
    for part in ("val", "test"):
        assert not (data.known(part) & data.relevant(part)).any()
    assert data.relevant("test").nonzero().tolist() == [[0, 0], [1, 0]]


def test_a_fraction_of_the_training_part_leaves_the_candidates_of_the_test_as_they_are(root: Path) -> None:
    whole, half = (MovieLensImplicit(root=root, fraction=share) for share in (1.0, 0.5))
    whole.setup()
    half.setup()
    assert torch.equal(whole.known("test"), half.known("test"))
    assert half.known("train").sum() == 2


def test_the_time_split_cuts_all_users_at_once_and_leaves_out_those_of_whom_nothing_is_trained_on(root: Path) -> None:
    data = MovieLensImplicit(root=root, split="time", test_fraction=0.3, val_fraction=0.15)
    data.setup()
    train, val, test = (pairs(data, part) for part in ("train", "val", "test"))
    assert test == [[0, 2], [0, 0]] and val == [[0, 3]]
    assert train == [[0, 1], [1, 1], [1, 0], [2, 3]]
    warm, cold = (
        MovieLensImplicit(root=root, split="time", test_fraction=0.9, val_fraction=0.0, cold_users=cold)
        for cold in (False, True)
    )
    warm.setup()
    cold.setup()
    assert pairs(cold, "train") == pairs(warm, "train") == [[2, 3]]
    assert pairs(warm, "test") == [] and len(pairs(cold, "test")) == 6


def test_interactions_of_one_second_stay_together() -> None:
    parts = split_by_time(torch.tensor([1, 2, 3, 3, 3]), 0.0, 0.2)
    assert parts.tolist() == [TRAIN, TRAIN, TEST, TEST, TEST]


@pytest.mark.parametrize("strata", ["item", "user"])
def test_a_random_split_takes_its_share_of_each_film_or_user(strata: str) -> None:
    generator = torch.Generator().manual_seed(0)
    user = torch.arange(400).sort().values % 20
    user = user.sort().values
    item = torch.randint(8, (400,), generator=generator)
    groups = item if strata == "item" else user
    parts = split_at_random(user, groups, 0.2, 0.25, seed=3)
    for group in groups.unique():
        mine = parts[groups == group]
        assert abs((mine == TEST).sum() - 0.25 * len(mine)) <= 1
        assert abs((mine == VAL).sum() - 0.2 * len(mine)) <= 1
    assert torch.equal(parts, split_at_random(user, groups, 0.2, 0.25, seed=3))
    assert not torch.equal(parts, split_at_random(user, groups, 0.2, 0.25, seed=4))


def test_a_user_with_one_item_stays_in_training_wherever_it_is_drawn() -> None:
    user = torch.arange(50)
    assert split_at_random(user, torch.zeros(50, dtype=torch.int64), 0.2, 0.4, seed=0).eq(TRAIN).all()
    assert split_leave_one_out(user, validate=True).eq(TRAIN).all()


def test_the_content_is_that_of_the_ratings_and_the_fingerprint_that_of_the_split(root: Path) -> None:
    ratings = MovieLens(root=root, val_fraction=0.2).content_fingerprint()
    settings = [{}, {"min_rating": 4}, {"split": "random", "split_seed": 1}, {"split": "random", "split_seed": 2}]
    made = [MovieLensImplicit(root=root, test_fraction=0.4, **one) for one in settings]  # type: ignore[arg-type]
    assert {data.content_fingerprint() for data in made} == {ratings}
    assert len({data.fingerprint() for data in made}) == 4
    assert made[0].fingerprint() == MovieLensImplicit(root=root).fingerprint(), "shares are of no meaning there"


def test_mistakes_are_told_at_once_by_their_keys(root: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"(?s)min_rating=-1.*\.split=tine: did you mean 'time'.*\.strata=x",
    ):
        MovieLensImplicit(root=root, min_rating=-1, split="tine", strata="x")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"MovieLensSequence\.length=0: expected 1 or more"):
        MovieLensSequence(root=root, length=0)


def test_a_history_holds_what_came_before_and_is_padded_on_the_left(root: Path) -> None:
    data = MovieLensSequence(root=root, length=3)
    data.setup()
    assert pairs(data, "train") == [[0, 0, 2]] and pairs(data, "val") == [[0, 2, 4]]
    assert pairs(data, "test") == [[2, 4, 3], [0, 0, 2]]
    assert data.arrays.test is not None
    assert data.arrays.test[1].tolist() == [[0, 0], [0, 1]], "the item, and whose history it is"
    assert (data.num_targets, data.input_shape) == (4, (3,))
    assert data.sample_text(torch.tensor([0, 5, 1])) == "[mask] 10"


def test_a_long_history_keeps_its_latest_items(root: Path) -> None:
    data = MovieLensSequence(root=root, length=2)
    data.setup()
    assert pairs(data, "test") == [[4, 3], [0, 2]]


def test_pairs_and_histories_know_the_same(root: Path) -> None:
    one, other = MovieLensImplicit(root=root), MovieLensSequence(root=root)
    one.setup()
    other.setup()
    for part in ("train", "val", "test"):
        assert torch.equal(one.known(part), other.known(part))
    assert torch.equal(one.relevant("test"), other.relevant("test"))
    assert one.sample_text(torch.tensor([[0, 1], [0, 2]])) == "user 1: film 20, not 30"


REPEATED = [(1, 10, 5, 1), (1, 20, 4, 2), (1, 10, 4, 3), (1, 30, 5, 4), (1, 20, 1, 5), (1, 10, 3, 6),
            (2, 30, 2, 1), (2, 20, 2, 2), (2, 10, 2, 3), (2, 40, 2, 4)]  # fmt: skip


@pytest.mark.parametrize("kind", [MovieLensImplicit, MovieLensSequence])
def test_of_repeated_pairs_the_last_is_kept_and_the_others_are_counted(
    kind: type[MovieLensImplicit], tmp_path: Path
) -> None:
    (tmp_path / "ml-100k").mkdir()
    (tmp_path / "ml-100k" / "u.data").write_text("\n".join("\t".join(map(str, row)) for row in REPEATED))
    data = kind(root=tmp_path)
    with pytest.warns(UserWarning, match="ml-100k: 3 of 10 interactions repeat an earlier pair of user and item"):
        data.setup()
    assert data.rows.tolist() == [3, 4, 5, 6, 7, 8, 9], "user 1: films 30, 20, 10 by their last times"
    for part in ("val", "test"):
        assert data.relevant(part).any() and not (data.known(part) & data.relevant(part)).any()
    later = kind(root=tmp_path, min_rating=2)
    later.load()
    assert later.rows.tolist() == [3, 5, 6, 7, 8, 9], "the last rating of a pair is the one that counts"


def test_nothing_is_said_where_no_pair_is_repeated(root: Path, recwarn: pytest.WarningsRecorder) -> None:
    MovieLensImplicit(root=root).setup()
    assert not [one for one in recwarn if "interactions" in str(one.message)]
