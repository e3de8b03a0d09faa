import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_modules.data.batch_sampler import BatchSampler
from lightning_modules.zoo.data.image_datasets import Digits


def epoch(order: BatchSampler, number: int) -> list[Tensor]:
    order.set_epoch(number)
    batches = list(order)
    assert len(batches) == len(order)
    return batches


INDICES = torch.arange(100, 203)


def numpy_state() -> np.ndarray:
    return np.random.get_state(legacy=False)["state"]["key"].copy()


def test_an_epoch_shows_every_sample_once() -> None:
    batches = epoch(BatchSampler(INDICES, 10), 3)
    assert [len(batch) for batch in batches] == [10] * 10 + [3]
    assert torch.equal(torch.cat(batches).sort().values, INDICES)


def test_drop_last_leaves_out_the_partial_batch() -> None:
    assert [len(batch) for batch in epoch(BatchSampler(INDICES, 10, drop_last=True), 0)] == [10] * 10


def test_shuffled_is_new_in_each_epoch_and_the_same_when_it_comes_again() -> None:
    order = BatchSampler(INDICES, 10, "shuffled", seed=1)
    first, second = torch.cat(epoch(order, 0)), torch.cat(epoch(order, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first, torch.cat(epoch(order, 0)))
    assert not torch.equal(first, torch.cat(epoch(BatchSampler(INDICES, 10, "shuffled", seed=2), 0)))


def test_fixed_is_one_permutation_for_all_epochs() -> None:
    order = BatchSampler(INDICES, 10, "fixed", seed=1)
    first = torch.cat(epoch(order, 0))
    assert torch.equal(first, torch.cat(epoch(order, 7)))
    assert not torch.equal(first, INDICES)


def test_sequential_keeps_the_order_of_the_indices() -> None:
    assert torch.equal(torch.cat(epoch(BatchSampler(INDICES, 10, "sequential"), 5)), INDICES)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_the_ranks_batches_of_a_step_are_together_the_batch_of_one_process(world_size: int, drop_last: bool) -> None:
    whole = epoch(BatchSampler(INDICES, 4 * world_size, "shuffled", 5, drop_last), 2)
    ranks = [epoch(BatchSampler(INDICES, 4, "shuffled", 5, drop_last, r, world_size), 2) for r in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1, "all ranks take equally many steps"
    assert len(ranks[0]) == len(whole)
    for step, batch in enumerate(whole):
        parts = [batches[step] for batches in ranks]
        assert len({len(part) for part in parts}) == 1, "all ranks see equally many samples"
        union = torch.stack(parts, 1).flatten()  # sample i of the batch is on rank i % world_size
        assert torch.equal(union[: len(batch)], batch)


def in_order(indices: Tensor, world_size: int) -> list[Tensor]:
    orders = [BatchSampler(indices, 10, "sequential", rank=r, world_size=world_size) for r in range(world_size)]
    return [torch.cat(epoch(order, 0)) for order in orders]


def test_padding_repeats_the_first_samples() -> None:
    ranks = [torch.cat(epoch(BatchSampler(INDICES, 10, "sequential", rank=r, world_size=4), 0)) for r in range(4)]
    assert torch.equal(torch.stack(ranks, 1).flatten(), torch.cat((INDICES, INDICES[:1])))


def test_fewer_samples_than_ranks_are_repeated() -> None:
    ranks = [torch.cat(epoch(BatchSampler(INDICES[:2], 10, "sequential", rank=r, world_size=5), 0)) for r in range(5)]
    assert torch.cat(ranks).tolist() == [100, 101, 100, 101, 100]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("chunk", [2, 4, 50])
def test_a_chunk_holds_the_same_batches_one_after_the_other(chunk: int, drop_last: bool) -> None:
    batches = epoch(BatchSampler(INDICES, 10, "shuffled", 3, drop_last), 1)
    items = epoch(BatchSampler(INDICES, 10, "shuffled", 3, drop_last, chunk=chunk), 1)
    again = [batch for item in items for batch in item.split(10)]
    assert len(items) == -(-len(batches) // chunk)
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))


def test_the_order_neither_reads_nor_moves_the_global_generators() -> None:
    data = Digits(seed=3)
    data.setup()
    torch.manual_seed(0)
    np.random.seed(0)
    states = torch.get_rng_state(), numpy_state()
    first = torch.cat([batch["index"] for batch in data.train_dataloader()])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(numpy_state(), states[1])
    torch.manual_seed(1)
    assert torch.equal(first, torch.cat([batch["index"] for batch in data.train_dataloader()]))


def test_the_permutation_of_an_epoch_stays_what_runs_have_recorded() -> None:
    assert torch.cat(epoch(BatchSampler(torch.arange(8), 8, seed=1), 2)).tolist() == [2, 4, 1, 5, 6, 3, 0, 7]


@pytest.mark.parametrize("world_size", [1, 3])
def test_balanced_draws_every_class_equally_often_and_ranks_share_the_draws(world_size: int) -> None:
    labels = torch.tensor([0] * 900 + [1] * 90 + [5] * 10)
    ranks = [
        BatchSampler(torch.arange(100, 1100), 10, "balanced", seed=1, labels=labels, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    shares = [torch.cat(epoch(rank, 2)) for rank in ranks]
    drawn = torch.stack(shares, 1).flatten()[:1000]
    counts = labels[drawn - 100].bincount()[[0, 1, 5]]
    assert (counts - 1000 / 3).abs().max() < 60  # four standard deviations
    assert len(drawn[labels[drawn - 100] == 0].unique()) > 200, "each of a class's samples is drawn equally often"
    alone = BatchSampler(torch.arange(100, 1100), 10, "balanced", seed=1, labels=labels)
    assert torch.equal(drawn, torch.cat(epoch(alone, 2))), "those of one process, without duplicates between ranks"
    assert not torch.equal(drawn, torch.cat(epoch(alone, 3)))
