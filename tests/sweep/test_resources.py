"""Cores and GPUs are shared out among the runs that go on side by side."""

import os

import pytest
import torch

from lightning_modules.strategy.launch.environment import Slot, allocate, num_threads, pin, visible_gpus

CASES = {
    "an equal share": ((2, [0, 1, 2, 3]), [Slot((0, 1)), Slot((2, 3))]),
    "one run gets all": ((1, [4, 5, 6]), [Slot((4, 5, 6))]),
    "what is left over stays free": ((2, [0, 1, 2]), [Slot((0,)), Slot((1,))]),
    "more runs than cores take turns": ((3, [0, 1]), [Slot((0,)), Slot((1,)), Slot((0,))]),
    "a GPU each": ((2, [0, 1], ["0", "1"], 1), [Slot((0,), ("0",)), Slot((1,), ("1",))]),
    "two GPUs each": ((2, [0, 1], ["0", "1", "2", "3"], 2), [Slot((0,), ("0", "1")), Slot((1,), ("2", "3"))]),
    "more runs than GPUs share them": ((2, [0, 1], ["7"], 1), [Slot((0,), ("7",)), Slot((1,), ("7",))]),
}


@pytest.mark.parametrize("case", CASES)
def test_cores_and_gpus_are_shared_out(case: str) -> None:
    arguments, expected = CASES[case]
    assert allocate(*arguments) == expected  # type: ignore[arg-type]


def test_only_the_gpus_that_cuda_would_see_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert visible_gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert visible_gpus() == []


@pytest.mark.parametrize(
    ("limit", "cores", "expected"), [("1", 8, 1), ("3,2", 8, 3), ("16", 4, 4), ("", 4, 4), ("x", 4, 4), ("2", 0, 1)]
)
def test_threads_are_the_cores_but_at_most_omp_num_threads(
    limit: str, cores: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    assert num_threads(cores) == expected


@pytest.mark.parametrize(("limit", "expected"), [("1", 1), ("2", 2), ("8", 3)])
def test_a_worker_of_a_sweep_takes_no_more_threads_than_omp_num_threads(
    limit: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: None)
    before = torch.get_num_threads()
    try:
        pin(Slot((0, 1, 2)))
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
