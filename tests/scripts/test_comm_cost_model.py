"""The cost model agrees with calculations by hand, and fits the link that produced its measurements."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from benchmarks.comm_cost_model import (
    LINKS,
    Job,
    Link,
    Plan,
    comm_seconds,
    efficiency,
    fit_link,
    plans,
    ring_bytes,
    step_seconds,
)
from benchmarks.comm_cost_plot import draw_scaling

LINK = Link("wire", alpha_s=1e-3, bytes_per_s=1e6)
JOB = Job(param_bytes=1e6, compute_s=1.0)


def test_a_ring_of_n_sends_two_n_minus_one_nths_of_the_payload() -> None:
    assert [ring_bytes(8.0, n) for n in (1, 2, 4)] == [0.0, 8.0, 12.0]


def test_a_sum_costs_its_messages_and_its_bytes_and_nothing_alone() -> None:
    assert comm_seconds(LINK, 1e6, 4) == pytest.approx(2 * 3 * 1e-3 + 1.5)
    assert comm_seconds(LINK, 1e6, 4, messages=3) == pytest.approx(3 * 2 * 3 * 1e-3 + 1.5)
    assert comm_seconds(LINK, 1e6, 1) == 0.0


def test_what_hides_is_free_as_long_as_there_is_something_to_hide_behind() -> None:
    job = Job(1e6, 1.0, overlap=0.6)
    assert step_seconds(Plan("ddp", 1.0), job, LINK, 2) == pytest.approx(1.0 + 1.002 - 0.6)
    assert step_seconds(Plan("ddp", 0.1), job, LINK, 2) == 1.0
    assert step_seconds(Plan("seldom", 1.0, period=4, hides=False), job, LINK, 2) == pytest.approx(1.0 + 1.002 / 4)


def test_less_traffic_is_never_slower_and_one_worker_is_always_efficient() -> None:
    by_name = {plan.name: plan for plan in plans()}
    for link in LINKS:
        for n in (8, 64, 1024):
            at = {name: efficiency(plan, JOB, link, n) for name, plan in by_name.items()}
            assert at["ddp_fp16"] >= at["ddp"] >= at["fsdp2"]
            assert at["local_sgd"] >= at["ddp"]
        assert {efficiency(plan, JOB, link, 1) for plan in by_name.values()} == {1.0}


def test_the_link_that_made_the_times_is_found_back() -> None:
    sizes = [1e3, 1e4, 1e5, 1e6, 1e7]
    found = fit_link("found", sizes, [comm_seconds(LINK, size, 4) for size in sizes], 4)
    assert (found.alpha_s, found.bytes_per_s) == (pytest.approx(1e-3), pytest.approx(1e6))
    with pytest.raises(ValueError, match="at least two different sizes"):
        fit_link("one", [1e3], [1.0], 2)


def test_the_picture_is_written(tmp_path: Path) -> None:
    draw_scaling(tmp_path / "scaling.png", {"one": Job(1.4e6, 0.05, overlap=0.6), "two": JOB}, plans(), LINK)
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
