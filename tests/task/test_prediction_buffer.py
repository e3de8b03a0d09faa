"""Predictions gathered over ranks: each sample once, in the order of the set."""

from typing import Any

import pytest
import torch

from lightning_modules.task.metrics import PredictionBuffer


def test_batches_come_back_whole_and_in_order() -> None:
    buffer = PredictionBuffer()
    for index in torch.arange(10).split(4):
        buffer.add(index[:, None] * 2.0, index, index)
    outputs, y = buffer.collect(None)
    assert outputs.squeeze(-1).tolist() == [2 * i for i in range(10)]
    assert y.tolist() == list(range(10))


def test_samples_that_padding_doubled_over_ranks_count_once() -> None:
    """Three ranks share 7 samples: rank r has r, r+3, r+6, and the first two samples fill the last places."""
    ranks = [[0, 3, 6], [1, 4, 0], [2, 5, 1]]
    buffers = [PredictionBuffer() for _ in ranks]
    for buffer, samples in zip(buffers, ranks, strict=True):
        index = torch.tensor(samples)
        buffer.add(index[:, None] * 2.0, index * 10, index)
    parts = [iter([torch.cat(column) for column in zip(*buffer._parts, strict=True)]) for buffer in buffers]

    def all_gather(part: torch.Tensor) -> Any:
        return torch.stack([next(mine) for mine in parts])

    outputs, y = buffers[0].collect(all_gather)
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
