"""A turn of the communication benchmark sees the bytes that its ranks send, and the table sets them against their bars."""

import importlib
import os
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def comm(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("benchmarks.comm")


@pytest.mark.slow
def test_a_turn_of_plain_ddp_sends_what_the_ring_needs_and_little_more(
    comm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import functools

    turns = importlib.import_module("benchmarks.comm_turn")
    for module in (comm, turns):
        monkeypatch.setattr(module, "WARM_UP", 2)
        monkeypatch.setattr(module, "STEPS", 4)
    words = ["data=digits", "model=mlp", "model.hidden=[256,256]", *comm.LOOP]
    size = comm.parameter_bytes(words[: -len(comm.LOOP)])
    found = turns.turn(functools.partial(comm.plain_ddp, words))
    assert found.samples == 128
    assert found.seconds > 0 < found.cpu_s
    # without a network of its own the loopback carries what others send as well
    assert found.wire > 1.9 * size
    assert found.wire < 2.3 * size or os.geteuid() != 0


def test_the_strategies_whose_config_is_there_are_measured_beside_one_process_and_plain_ddp(
    comm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comm, "STRATEGIES", {"ddp": [], "ddp, accumulate 4": [], "not_there": []})
    assert list(comm.measures(["model=mlp"])) == ["one process", "plain DDP", "ddp", "ddp, accumulate 4"]


def test_the_table_takes_bytes_over_the_ring_bound_and_cpu_over_one_process(comm: Any) -> None:
    turn = importlib.import_module("benchmarks.comm_turn").Turn
    turns = {
        "one process": [turn(1.0, 0.5, 0.0, None, 64)],
        "plain DDP": [turn(1.0, 1.0, 200.0, None, 128)],
        "ddp": [turn(1.0, 1.1, 202.0, 0.25, 128)],
    }
    plain, ddp = comm.rows(turns, 100, "cnn")
    assert str(plain) == "| plain DDP | 1.00 (1.00–1.00) | 1.00 (1.00–1.00) | 1.00 (1.00–1.00) | 1000.0 |"
    assert str(ddp) == (
        "| ddp | 1.01 (1.01–1.01), ≤ 1.03: met | 1.10 (1.10–1.10), ≤ 1.2: met | 1.00 (1.00–1.00), ≥ 0.97: met | 1000.0, 250.0 |"
    )
