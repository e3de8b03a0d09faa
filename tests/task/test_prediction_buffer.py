"""Predictions gathered over ranks: each sample once, in the order of the set."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from lightning_modules.task.metrics import PredictionBuffer


def test_batches_come_back_whole_and_in_order() -> None:
    buffer = PredictionBuffer()
    for index in torch.arange(10).split(4):
        buffer.add(index[:, None] * 2.0, index, index)
    outputs, y, _ = buffer.collect(None)
    assert outputs.squeeze(-1).tolist() == [2 * i for i in range(10)]
    assert y.tolist() == list(range(10))


@pytest.mark.parametrize("ranks", [[[0, 3, 6], [1, 4, 0], [2, 5, 1]], [[0, 3, 6], [1, 4], [2, 5]]])
def test_each_sample_counts_once_whether_or_not_ranks_have_equally_many(ranks: list[list[int]]) -> None:
    """Three ranks share 7 samples: the first two samples fill the last places, or the places do not exist."""
    given: list[Any] = [None] * len(ranks)
    barrier = threading.Barrier(len(ranks), timeout=10)

    def collect(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        def all_gather(part: torch.Tensor) -> torch.Tensor:
            given[rank] = part
            barrier.wait()
            gathered = torch.stack(given)  # as the collective, only of equal shapes
            barrier.wait()
            return gathered

        buffer, index = PredictionBuffer(), torch.tensor(ranks[rank])
        buffer.add(index[:, None] * 2.0, index * 10, index)
        return buffer.collect(all_gather)[:2]

    with ThreadPoolExecutor(len(ranks)) as threads:
        for outputs, y in threads.map(collect, range(len(ranks))):
            assert outputs.squeeze(-1).tolist() == [2 * i for i in range(7)]
            assert y.tolist() == [10 * i for i in range(7)]


def test_collecting_empties_the_buffer() -> None:
    buffer = PredictionBuffer()
    index = torch.arange(3)
    buffer.add(index[:, None].float(), index, index)
    buffer.collect(None)
    with pytest.raises(RuntimeError, match="the evaluation set is empty"):
        buffer.collect(None)


def test_outputs_of_half_precision_are_measured_in_single() -> None:
    buffer = PredictionBuffer()
    buffer.add(torch.ones(2, 3, dtype=torch.bfloat16), torch.zeros(2), torch.arange(2))
    assert buffer.collect(None)[0].dtype == torch.float32
