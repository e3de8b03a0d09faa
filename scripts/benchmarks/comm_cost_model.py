"""Cost model of communication: seconds per training step by strategy, number of workers and network."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

HALF = 0.5  # bytes of a 16-bit number over those of a 32-bit one


@dataclass(frozen=True)
class Link:
    """A network between workers: each message costs ``alpha_s + bytes / bytes_per_s`` (Hockney 1994).

    ``bytes_per_s`` is what one worker sends while it receives as much.
    """

    name: str
    alpha_s: float
    bytes_per_s: float


# Assumptions: latency of a message between two processes, and 90 % of the nominal rate.
LINKS = (
    Link("1 GbE", 50e-6, 0.9 * 1e9 / 8),
    Link("10 GbE", 30e-6, 0.9 * 10e9 / 8),
    Link("100 GbE", 10e-6, 0.9 * 100e9 / 8),
    Link("NVLink", 5e-6, 0.9 * 450e9),
)


@dataclass(frozen=True)
class Job:
    """One training step of one worker.

    Args:
        param_bytes: of all parameters in float32.
        compute_s: forward pass, backward pass and optimizer step, without communication.
        buckets: messages per gradient all-reduce; DDP's buckets have 25 MB.
        overlap: fraction of the computation that communication can overlap with; backward is about two thirds.
    """

    param_bytes: float
    compute_s: float
    buckets: int = 1
    overlap: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What a strategy sends: `volume` times the parameters' bytes, every `period` steps, in rounds over the ring.

    Args:
        rounds: passes of n - 1 messages around the ring; an all-reduce takes two, an all-gather one.
        hides: whether it overlaps with the computation of gradients.
    """

    name: str
    volume: float
    period: float = 1
    rounds: float = 2
    hides: bool = True


def plans(rank: int = 1, row: float = 256.0, steps: int = 4, period: int = 8) -> list[Plan]:
    """The compared strategies, for matrices with `row` rows and columns.

    PowerSGD of rank r sends r (n + m) numbers for an n x m matrix (Vogels et al. 2019, section 3) in two successive
    all-reduces; accumulating over `steps` and local steps of `period` send as much as DDP, less often; FSDP2 gathers the
    weights twice and reduce-scatters the gradients: three rounds.
    """
    return [
        Plan("ddp", 1.0),
        Plan("ddp_fp16", HALF),
        Plan("ddp_powersgd", min(1.0, 2 * rank / row), rounds=4),
        Plan("ddp, accumulate 4" if steps == 4 else f"ddp, accumulate {steps}", 1.0, period=steps),
        Plan("local_sgd", 1.0, period=period, hides=False),
        Plan("fsdp2", 1.5, rounds=3),
    ]


def ring_bytes(payload: float, workers: int) -> float:
    """Bytes that one worker sends in an all-reduce of `payload` bytes: 2 (n - 1) / n of it.

    Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms", theorem 1: no algorithm sends less.
    """
    return 2 * (workers - 1) / workers * payload


def comm_seconds(link: Link, payload: float, workers: int, messages: int = 1, rounds: float = 2) -> float:
    """Seconds of a ring all-reduce of successive messages; 0 for one worker."""
    if workers < 2:
        return 0.0
    return messages * rounds * (workers - 1) * link.alpha_s + ring_bytes(payload, workers) / link.bytes_per_s


def step_seconds(plan: Plan, job: Job, link: Link, workers: int) -> float:
    """Mean seconds per step. Overlapping communication is free up to ``overlap * compute_s``."""
    busy = comm_seconds(link, plan.volume * job.param_bytes, workers, job.buckets, plan.rounds)
    exposed = max(0.0, busy - job.overlap * job.compute_s) if plan.hides else busy
    return job.compute_s + exposed / plan.period


def efficiency(plan: Plan, job: Job, link: Link, workers: int) -> float:
    """Samples per second of `workers` over `workers` times that of one, each with its own batch (weak scaling)."""
    return job.compute_s / step_seconds(plan, job, link, workers)


def fit_link(name: str, sizes: Sequence[float], seconds: Sequence[float], workers: int) -> Link:
    """Fit a link to the times of all-reduces of `sizes` bytes: non-negative least squares of relative errors.

    Raises:
        ValueError: fewer than two sizes.
    """
    if len(set(sizes)) < 2:
        raise ValueError("fit_link needs at least two different sizes")
    times = np.asarray(seconds, dtype=float)
    columns = np.stack(
        [np.full(len(times), 2.0 * (workers - 1)), [ring_bytes(size, workers) for size in sizes]], axis=1
    )
    from scipy.optimize import nnls

    (alpha, inverse), _ = nnls(columns / times[:, None], np.ones(len(times)))
    return Link(name, float(alpha), 1 / max(float(inverse), 1e-15))
