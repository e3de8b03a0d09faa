import signal

import pytest

from lightning_modules.sweep.launcher_runner import preemption_handler


@pytest.fixture
def handler():
    def requeue(number, frame):
        """As of submitit."""

    before = signal.signal(signal.SIGUSR1, requeue)
    yield requeue
    signal.signal(signal.SIGUSR1, before)


def test_the_handler_of_a_slurm_job_is_found(monkeypatch, handler):
    monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    assert preemption_handler() is None
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    assert preemption_handler() is handler


@pytest.mark.slow  # needs the extra `slurm`
def test_submitit_still_uses_these_variables():
    from inspect import getsource

    from submitit.core import job_environment
    from submitit.slurm import slurm

    text = getsource(slurm) + getsource(job_environment)
    assert "SUBMITIT_EXECUTOR" in text and "SUBMITIT_PREEMPT_SIGNAL" in text
