"""A Slurm and a Ray of this machine, each for the tests that ask for it."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import pytest

HERE = Path(__file__).resolve().parent
SMALL = ("model=mlp", "data.per_class=10", "trainer.max_epochs=1", "tracking.system_metrics_s=null",
         "tracking.pictures=false")  # fmt: skip


@dataclass(frozen=True)
class Swept:
    """A sweep as it stands in the store after the command; `children` by trial number."""

    parent: Any
    children: list[Any]

    def of_children(self, tag: str) -> list[str | None]:
        """The value that each child has of a tag."""
        return [run.data.tags.get(tag) for run in self.children]

    @property
    def params(self) -> list[dict[str, Any]]:
        """What was swept, by trial."""
        return [json.loads(run.data.tags["sweep.params"]) for run in self.children]

    @property
    def statuses(self) -> list[str]:
        """Of the sweep's own run, then of each child."""
        return [run.info.status for run in (self.parent, *self.children)]


def cannot(reason: str) -> NoReturn:
    """Fail where CI must have the engine, else skip."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """A Slurm of one node with two CPUs, which SLURM_CONF names; call it with a command to get what that prints."""
    folder, script = tmp_path_factory.mktemp("slurm"), HERE / "slurm.sh"
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def ask(*words: str) -> str:
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.strip()

    try:
        started = subprocess.run([script, "start", folder], capture_output=True, text=True, check=False, timeout=240)
        if started.returncode:
            cannot(f"{script} start: {started.stderr.strip()[-1000:]}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", environment["SLURM_CONF"])
            yield ask
    finally:
        subprocess.run([script, "stop", folder], capture_output=True, check=False, timeout=60)


@pytest.fixture(scope="session")
def ray() -> None:
    """Ray is a package of Python alone, and the command starts and ends it."""
    if not find_spec("hydra_plugins.hydra_ray_launcher"):
        cannot("needs Ray: pip install -e '.[ray]'")


@pytest.fixture
def refusal() -> type[Exception]:
    """What submitit raises where a job is refused."""
    if not find_spec("submitit"):
        cannot("needs submitit: pip install -e '.[slurm]'")
    from submitit.core.utils import FailedJobError

    return FailedJobError


@pytest.fixture
def sweep(store: Any, command: Callable[..., Any], tmp_path: Path) -> Callable[..., Swept]:
    """Run ``train.py -m`` with these overrides, and read the store afterwards."""

    def run(*overrides: str) -> Swept:
        done = command("train.py", "-m", *SMALL, f"hydra.sweep.dir='{tmp_path}/jobs'", *overrides)
        assert done.returncode == 0, done.stdout + done.stderr
        return read_sweep(store)

    return run


def read_sweep(store: Any) -> Swept:
    """The only sweep of the store, in which there is nothing else: a run of no trial, or two of one, would be an error."""
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    runs = store.client.search_runs(experiments)
    (parent,) = [run for run in runs if run.data.tags.get("touchstone.kind") == "sweep"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(runs) == 1 + len(children)
    children.sort(key=lambda run: int(run.data.tags["sweep.trial"]))
    assert [int(run.data.tags["sweep.trial"]) for run in children] == list(range(len(children)))
    return Swept(parent, children)
