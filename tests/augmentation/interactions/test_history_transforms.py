"""Transforms of histories: against the same thing done to one history after the other."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules.augmentation.interactions.history_transforms import (
    HistoryCrop,
    HistoryDropout,
    HistoryMask,
    HistoryReorder,
    VirtualUsers,
)
from lightning_modules.config.errors import UserError

LENGTH, ITEMS = 9, 90


def histories(count: int = 400) -> Tensor:
    """Histories of 0 to LENGTH items; no item stands in two of ten neighbouring ones."""
    x = torch.zeros(count, LENGTH, dtype=torch.int64)
    for row in range(count):
        items = row % (LENGTH + 1)
        x[row, LENGTH - items :] = torch.arange(items) + 1 + LENGTH * (row % 10)
    return x


def transforms() -> list[Any]:
    made: list[Any] = [HistoryCrop(), HistoryReorder(), HistoryMask(), HistoryDropout(), VirtualUsers(probability=1.0)]
    made[2].prepare(SimpleNamespace(name="made", num_items=ITEMS))
    return made


def run(transform: Any, x: Tensor, seed: int = 0) -> Tensor:
    return transform({"x": x, "y": torch.zeros(len(x))}, torch.Generator().manual_seed(seed))["x"]


@pytest.mark.parametrize("place", range(5))
def test_all_keep_type_shape_and_padding_and_depend_on_the_generator_alone(place: int) -> None:
    transform, x = transforms()[place], histories()
    kept, state = x.clone(), torch.get_rng_state()
    one, same, other = (run(transform, x, seed) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(x, kept) and torch.equal(torch.get_rng_state(), state)
    assert one.shape == x.shape and one.dtype == x.dtype
    there = (one != 0).long()
    assert (there.diff(dim=1) >= 0).all(), "padding stays on the left"
    assert torch.equal(there.any(1), (x != 0).any(1)), "no history is lost, and an empty one stays so"
    assert run(transform, x[5:6]).shape == (1, LENGTH) and run(transform, x[:0]).shape == (0, LENGTH)


@pytest.mark.parametrize("place", range(5))
def test_each_history_is_changed_with_the_probability_on_its_own(place: int) -> None:
    transform = transforms()[place]
    transform.probability = 0.3
    if hasattr(transform, "share") and place in (2, 3):
        transform.share = 0.9
    x = histories(10).repeat(500, 1)[9::10].repeat(10, 1)  # full ones
    x = x + torch.arange(len(x))[:, None] * LENGTH * (place == 4)  # a partner's must be others
    changed = (run(transform, x) != x).any(1)
    assert float(changed.float().mean()) == pytest.approx(0.3, abs=0.03)
    agree = (changed[1:] == changed[:-1]).float().mean()
    assert float(agree) == pytest.approx(0.3**2 + 0.7**2, abs=0.03)


def test_a_crop_is_a_run_of_the_history_of_the_asked_length_at_any_place() -> None:
    x = histories()
    out = run(HistoryCrop(0.6), x)
    for before, after in zip(x.tolist(), out.tolist(), strict=True):
        items, kept = [i for i in before if i], [i for i in after if i]
        assert len(kept) == min(max(1, int(0.6 * len(items))), len(items))
        assert any(items[at : at + len(kept)] == kept for at in range(len(items) + 1))
    starts = run(HistoryCrop(0.6), histories(10)[9:].repeat(5000, 1)).eq(0).sum(1)
    assert starts.eq(4).all()
    first = run(HistoryCrop(0.6), histories(10)[9:].repeat(5000, 1))[:, 4]
    assert (first.unique(return_counts=True)[1] - 1000).abs().max() < 130, "five places for 5 of 9, as often each"


def test_reordering_moves_items_within_one_run_only() -> None:
    x = histories()
    out = run(HistoryReorder(0.5), x)
    assert torch.equal(out.sort(1).values, x.sort(1).values)
    moved = out != x
    for row, count in zip(moved, (x != 0).sum(1).tolist(), strict=True):
        places = row.nonzero().flatten().tolist()
        assert not places or places[-1] - places[0] < max(1, int(0.5 * count))
    assert moved.any()


def test_each_item_is_masked_or_dropped_with_the_share() -> None:
    x = histories(10)[9:].repeat(3000, 1)
    mask, dropout = transforms()[2:4]
    masked = run(mask, x)
    assert float((masked == ITEMS + 1).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert torch.equal(torch.where(masked == ITEMS + 1, x, masked), x)
    dropped = run(dropout, x)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.2, abs=0.01)
    for before, after in zip(x[:50].tolist(), dropped[:50].tolist(), strict=True):
        kept = [i for i in after if i]
        assert kept == [i for i in before if i in kept], "the order stays"
    dropout.share = 1.0
    assert torch.equal(run(dropout, x)[:, -1], x[:, -1]), "the latest is kept where none would be left"


def test_a_virtual_user_has_the_newer_part_of_one_history_behind_the_older_part_of_another() -> None:
    x = histories(10)[1:]
    out = run(VirtualUsers(share=0.5, probability=1.0), x)
    foreign = False
    for row, (before, after) in enumerate(zip(x.tolist(), out.tolist(), strict=True)):
        items, mixed = [i for i in before if i], [i for i in after if i]
        own = [i for i in mixed if i in items]
        assert own == items[-len(own) :] and len(own) >= max(1, len(items) // 2), row
        assert mixed[-len(own) :] == own and len(mixed) <= len(items)
        others = mixed[: -len(own)]
        foreign |= bool(others)
        assert len({(i - 1) // LENGTH for i in others}) <= 1, "of one partner"
    assert foreign


def test_no_item_stands_twice_in_a_virtual_history() -> None:
    x = torch.stack([torch.randperm(12, generator=torch.Generator().manual_seed(i))[:LENGTH] + 1 for i in range(200)])
    out = run(VirtualUsers(share=0.1, probability=1.0), x)
    assert all(len({i for i in row if i}) == sum(i != 0 for i in row) for row in out.tolist())


def test_wrong_settings_and_samples_are_told() -> None:
    for kind in (HistoryCrop, HistoryReorder, HistoryMask, HistoryDropout, VirtualUsers):
        with pytest.raises(UserError, match=r"share=1\.5"):
            kind(share=1.5)
        with pytest.raises(UserError, match="probability=-1"):
            kind(probability=-1)
    with pytest.raises(UserError, match="try data=movielens_sequence"):
        run(HistoryCrop(), torch.zeros(2, 3, 8, 8))
    with pytest.raises(UserError, match=r"call prepare\(datamodule\) first"):
        run(HistoryMask(), histories(3))
    with pytest.raises(UserError, match="not digits"):
        HistoryMask().prepare(SimpleNamespace(name="digits"))


@pytest.mark.gpu
@pytest.mark.parametrize("place", range(5))
def test_a_gpu_gives_the_batch_that_a_cpu_gives(place: int) -> None:
    transform, x = transforms()[place], histories()
    batch = {"x": x.cuda(), "y": torch.zeros(len(x)).cuda()}
    there = transform(batch, torch.Generator().manual_seed(1))["x"]
    assert there.is_cuda
    assert torch.equal(there.cpu(), run(transform, x, 1))
