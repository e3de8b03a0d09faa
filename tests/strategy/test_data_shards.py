"""What the ranks are given of the data: together everything, apart nothing twice, and metrics over each sample once."""

import pytest
import torch
from torch import Tensor

from lightning_modules.data.batch_sampler import BatchSampler
from lightning_modules.task.metrics import PredictionBuffer


def shards(samples: int, world_size: int, drop_last: bool, order: str = "shuffled") -> list[list[int]]:
    indices = torch.arange(samples) + 100
    made = [BatchSampler(indices, 4, order, 7, drop_last, rank, world_size) for rank in range(world_size)]  # type: ignore[arg-type]
    return [torch.cat([*sampler, torch.empty(0, dtype=torch.int64)]).tolist() for sampler in made]


@pytest.mark.parametrize("order", ["shuffled", "fixed", "sequential"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("samples", [1, 5, 23, 24, 25, 96])
def test_shards_cover_the_set_and_share_no_more_than_fills_the_last_round(
    samples: int, world_size: int, order: str
) -> None:
    given = shards(samples, world_size, False, order)
    assert {i for shard in given for i in shard} == set(range(100, 100 + samples))
    assert len({len(shard) for shard in given}) == 1
    assert sum(map(len, given)) - samples == -samples % world_size


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("samples", [5, 23, 24, 25, 96])
def test_shards_without_the_last_smaller_batch_are_disjoint_and_leave_less_than_one_global_batch(
    samples: int, world_size: int
) -> None:
    given = shards(samples, world_size, True)
    seen = [i for shard in given for i in shard]
    assert len(seen) == len(set(seen))
    assert samples - len(seen) < 4 * world_size
    assert all(len(shard) % 4 == 0 for shard in given)


@pytest.mark.parametrize("world_size", [2, 3, 8])
@pytest.mark.parametrize("samples", [1, 5, 23, 24])
def test_predictions_of_uneven_shards_come_back_once_each_and_in_order(samples: int, world_size: int) -> None:
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    for shard in shards(samples, world_size, False, "sequential"):
        index = torch.tensor(shard)
        kept.append((index[:, None].float(), index % 3, index))
    buffer, parts = PredictionBuffer(), iter(zip(*kept, strict=True))
    buffer.add(*kept[0])

    def all_gather(own: Tensor) -> Tensor:  # what each rank holds: equal numbers of samples, and these
        return torch.stack(next(parts)) if own.ndim else own.repeat(world_size)

    outputs, y, _ = buffer.collect(all_gather)
    assert outputs[:, 0].tolist() == list(range(100, 100 + samples))
    assert torch.equal(y, torch.arange(100, 100 + samples) % 3)
