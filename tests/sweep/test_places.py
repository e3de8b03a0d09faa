"""Cores and GPUs are shared out among the runs that go on side by side."""

import pytest

from lightning_modules.sweep.places import Place, shares, visible_gpus

CASES = {
    "an equal share": ((2, [0, 1, 2, 3]), [Place((0, 1)), Place((2, 3))]),
    "one run gets all": ((1, [4, 5, 6]), [Place((4, 5, 6))]),
    "what is left over stays free": ((2, [0, 1, 2]), [Place((0,)), Place((1,))]),
    "more runs than cores take turns": ((3, [0, 1]), [Place((0,)), Place((1,)), Place((0,))]),
    "a GPU each": ((2, [0, 1], ["0", "1"], 1), [Place((0,), ("0",)), Place((1,), ("1",))]),
    "two GPUs each": ((2, [0, 1], ["0", "1", "2", "3"], 2), [Place((0,), ("0", "1")), Place((1,), ("2", "3"))]),
    "more runs than GPUs share them": ((2, [0, 1], ["7"], 1), [Place((0,), ("7",)), Place((1,), ("7",))]),
}


@pytest.mark.parametrize("case", CASES)
def test_cores_and_gpus_are_shared_out(case: str) -> None:
    arguments, expected = CASES[case]
    assert shares(*arguments) == expected  # type: ignore[arg-type]


def test_only_the_gpus_that_cuda_would_see_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert visible_gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert visible_gpus() == []
