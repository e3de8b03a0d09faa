"""Jobs of a real Slurm that lose their place or their node: each goes on in its run, from its last checkpoint."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.rerun import metric_histories
from lightning_modules.tracking.resume import best_checkpoint

pytestmark = pytest.mark.slow

TESTS = Path(__file__).resolve().parents[1]
LONGER = ("trainer.max_epochs=4", "callbacks=last", "callbacks.last.every_s=0", "tracking.pictures=false")


def take_the_place(slurm: Callable[..., str], job: str) -> None:
    """What Slurm does by itself when a job of more weight wants the place."""
    slurm("scancel", "--signal=USR2", job)


def lose_the_node(slurm: Callable[..., str], job: str) -> None:
    """The node is gone, and comes back with nothing left on it: it would refuse a job of which something still runs."""
    node = slurm("squeue", "-h", "-j", job, "-o", "%N")
    slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and any(
        " ".join(process.info["cmdline"] or ()).startswith(f"slurmstepd: [{job}.")
        for process in psutil.process_iter(["cmdline"])
    ):
        time.sleep(0.2)
    time.sleep(2)
    slurm("scontrol", "update", f"nodename={node}", "state=resume")


@pytest.fixture
def disturbed(
    slurm: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """Hold the run at the beginning of its third epoch and do to its job what is told; give the overrides for that.

    The list that comes with them gets the number of the job.
    """
    mark, over = tmp_path / "held", threading.Event()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))

    def begin(harm: Callable[..., None]) -> tuple[list[str], list[str]]:
        jobs: list[str] = []

        def disturb() -> None:
            while not mark.exists() and not over.wait(0.1):
                pass
            if mark.exists():
                jobs.extend(slurm("squeue", "-h", "-t", "RUNNING", "-o", "%A").split())
                harm(slurm, jobs[0])

        threading.Thread(target=disturb, daemon=True).start()
        return ["+callbacks.held._target_=kill_once_callbacks.BlockOnce", f"+callbacks.held.mark='{mark}'"], jobs

    yield begin
    over.set()


@pytest.mark.parametrize(
    ("harm", "ranks"),
    [
        (take_the_place, 1),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in ((take_the_place, 2), (lose_the_node, 1), (lose_the_node, 2))
        ),
    ],
)
def test_a_job_that_is_requeued_goes_on_in_its_run(
    harm: Callable[..., None], ranks: int, slurm: Callable[..., str], store: Any, sweep: Any, train: Any, disturbed: Any
) -> None:
    held, jobs = disturbed(harm)
    several = ["trainer=ddp", f"trainer.devices={ranks}", f"hydra.launcher.tasks_per_node={ranks}"] if ranks > 1 else []
    swept = sweep("hydra/launcher=slurm", "seed=0", *LONGER, *several, *held)
    assert swept.statuses == ["FINISHED", "FINISHED"], [run.data.tags.get("touchstone.error") for run in swept.children]
    assert len(jobs) == 1
    assert "Restarts=1" in slurm("scontrol", "show", "job", jobs[0])
    (child,) = swept.children
    words = ("seed=0", "data.per_class=10", "model=mlp", *LONGER, *several[:2])
    undisturbed = train(*words, "~callbacks.progress", "tracking.system_metrics_s=null", quick=False)
    ours, theirs = (read_checkpoint(best_checkpoint(store, run))["state_dict"] for run in (child, undisturbed))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    points, wanted = (metric_histories(store, run.info.run_id) for run in (child, undisturbed))
    assert points["val/loss"] == wanted["val/loss"]
    for metric, history in points.items():
        assert len({step for step, _ in history}) == len(history), metric


def test_a_module_of_the_user_goes_on_in_its_run(
    slurm: Callable[..., str], store: Any, command: Any, train: Any, disturbed: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "user_modules,kill_once_callbacks")
    held, jobs = disturbed(take_the_place)
    words = ["task=lightning_module", "task._target_=user_modules.Classifier", "data=lightning_datamodule",
             "data._target_=user_modules.Points", "tracking.system_metrics_s=null", *LONGER]  # fmt: skip
    folder = f"hydra.sweep.dir='{tmp_path}/jobs'"
    launched = ("hydra/launcher=slurm", "seed=0", folder, *words, *held)
    done = command("train.py", "-m", *launched, PYTHONPATH=os.environ["PYTHONPATH"])
    assert done.returncode == 0, done.stdout + done.stderr
    (child,) = store.search_runs("tags.`sweep.trial` = '0'")
    assert child.info.status == "FINISHED"
    assert "Restarts=1" in slurm("scontrol", "show", "job", jobs[0])
    undisturbed = train(*words, "seed=0", "callbacks.progress=null", "callbacks.summary=null", quick=False)
    ours, theirs = (
        read_checkpoint(artifact_path(store, run, "checkpoints/last.ckpt"))["state_dict"]
        for run in (child, undisturbed)
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
