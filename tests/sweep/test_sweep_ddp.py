"""Several processes a run inside of a sweep: every rank of a job trains with that job's hyper-parameters, and it is one run."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from lightning_modules.tracking.rerun import metric_histories

DDP = (
    "trainer=ddp", "trainer.devices=2", "model=linear", "data.per_class=20", "trainer.max_epochs=2", "cpu_threads=1",
    "callbacks.last.every_s=0", "tracking.system_metrics_s=null", "tracking.pictures=false", "~callbacks.summary",
)  # fmt: skip
GRID = ("optimizer.lr=1e-2,3e-3", "seed=0,1", "sweep.jobs=2")
WITNESS = '''
import json, os, pathlib, signal
import pytorch_lightning as pl
import torch
import torch.distributed as dist

class Witness(pl.Callback):
    """Each rank writes what it trains with; `dies`: rank 1 of the first job that comes to epoch 1 is killed."""

    def __init__(self, folder, dies=False):
        self.folder, self.dies = pathlib.Path(folder), dies

    def on_train_epoch_start(self, trainer, pl_module):
        optimizer = trainer.optimizers[0]
        seen = {
            "lr": optimizer.param_groups[0]["lr"], "rank": trainer.global_rank, "world": dist.get_world_size(),
            "epoch": trainer.current_epoch, "master": os.environ["MASTER_PORT"], "pid": os.getpid(),
            "threads": torch.get_num_threads(),
        }
        with open(self.folder / f"{os.getpid()}.jsonl", "a") as file:
            file.write(json.dumps(seen) + "\\n")
        if self.dies and trainer.global_rank == 1 and trainer.current_epoch == 1:
            try:
                (self.folder / "died").touch(exist_ok=False)
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the ranks write; what they write with can be imported here and in processes started from here."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "sweep_ddp_witness.py").write_text(WITNESS)
    monkeypatch.syspath_prepend(str(code))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")])))
    seen = tmp_path / "what is seen"
    seen.mkdir()
    return seen


def witness(folder: Path, dies: bool = False) -> tuple[str, ...]:
    return (
        "+callbacks.witness._target_=sweep_ddp_witness.Witness",
        f"+callbacks.witness.folder='{folder}'",
        f"+callbacks.witness.dies={str(dies).lower()}",
    )


def jobs(folder: Path) -> list[list[dict[str, Any]]]:
    """What the ranks of each job wrote, by rank; ranks of one job have one port."""
    by_port: dict[str, list[dict[str, Any]]] = {}
    for file in folder.glob("*.jsonl"):
        first = json.loads(file.read_text().splitlines()[0])
        by_port.setdefault(first["master"], []).append(first)
    return [sorted(ranks, key=lambda seen: seen["rank"]) for ranks in by_port.values()]


def check_jobs(folder: Path, store: Any, done: Any, trials: int) -> None:
    assert done.code == 0, done.said
    assert [child.status for child in done.children] == ["FINISHED"] * trials
    assert run_count(store) == trials + 1  # and that of the sweep
    found = jobs(folder)
    assert len(found) == trials
    for ranks in found:
        assert [seen["rank"] for seen in ranks] == [0, 1]
        assert {seen["world"] for seen in ranks} == {2}
        assert len({seen["lr"] for seen in ranks}) == 1
    trained = sorted(ranks[0]["lr"] for ranks in found)
    assert trained == pytest.approx(sorted(child.params["optimizer.lr"] for child in done.children))
    assert not [seen["pid"] for ranks in found for seen in ranks if is_there(seen["pid"])]


def is_there(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def run_count(store: Any) -> int:
    everywhere = [experiment.experiment_id for experiment in store.client.search_experiments()]
    return len(store.client.search_runs(everywhere))


@pytest.mark.slow
def test_two_jobs_of_two_processes_at_a_time_have_their_own_parameters_on_every_rank(
    sweep: Callable[..., Any], folder: Path, store: Any
) -> None:
    done = sweep(*DDP, *GRID, *witness(folder), "sweep.name=grid", quick=False)
    check_jobs(folder, store, done, 4)
    for child in done.children:
        assert len(metric_histories(store, child.run_id)["val/loss"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("start", "trials"), [("fork", 4), pytest.param("popen", 2, marks=pytest.mark.long)])
def test_a_search_gives_every_rank_of_a_job_the_same_parameters(
    sweep: Callable[..., Any], folder: Path, store: Any, start: str, trials: int
) -> None:
    done = sweep(
        *DDP, f"strategy.start_method={start}", "hydra/sweeper=optuna", "optimizer.lr=tag(log,interval(1e-4,1e-1))",
        f"search.trials={trials}", "sweep.jobs=2", *witness(folder), "sweep.name=search", quick=False,
    )  # fmt: skip
    check_jobs(folder, store, done, trials)


@pytest.mark.slow
def test_ranks_that_are_new_processes_are_told_the_jobs_parameters(
    sweep: Callable[..., Any], folder: Path, store: Any
) -> None:
    done = sweep(
        *DDP, "strategy.start_method=popen", "optimizer.lr=1e-2,3e-3", "sweep.jobs=2", *witness(folder), "name='a, b={c} #1'",
        "sweep.name=popen", quick=False,
    )  # fmt: skip
    check_jobs(folder, store, done, 2)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "popen"])
def test_a_rank_that_is_killed_costs_its_job_one_attempt(
    sweep: Callable[..., Any], folder: Path, store: Any, start: str
) -> None:
    done = sweep(
        *DDP, f"strategy.start_method={start}", "seed=0,1", "sweep.jobs=2", *witness(folder, dies=True), "sweep.name=killed",
        "sweep.retries=1", quick=False,
    )  # fmt: skip
    assert (folder / "died").exists()
    assert done.code == 0, done.said
    assert [child.status for child in done.children] == ["FINISHED"] * 2
    assert run_count(store) == 3
    assert done.said.count("FAILED") == 1
    for file in folder.glob("*.jsonl"):
        assert not is_there(int(file.stem))
    for child in done.children:
        steps = [step for step, _ in metric_histories(store, child.run_id)["val/loss"]]
        assert len(steps) == len(set(steps)) == 2


@pytest.mark.slow
def test_ranks_obey_the_pruner_that_rank_0_asks(sweep: Callable[..., Any], folder: Path, store: Any) -> None:
    done = sweep(
        *DDP, "hydra/sweeper=optuna", "search.sampler=grid", "optimizer=sgd", "optimizer.lr=0.5,1e-9", "search.pruner=median",
        "+search.pruner_options.n_startup_trials=1", "search.seed=1", "trainer.max_epochs=6", "data.per_class=40",
        *witness(folder), "sweep.name=pruned", quick=False,
    )  # fmt: skip
    assert done.code == 0, done.said
    assert sorted(child.status for child in done.children) == ["FINISHED", "PRUNED"]
    for ranks in jobs(folder):
        last = [json.loads((folder / f"{seen['pid']}.jsonl").read_text().splitlines()[-1])["epoch"] for seen in ranks]
        assert len(last) == 2
        assert last[0] == last[1]


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        (("hydra/sweeper=basic", "hydra/launcher=basic"), "their ranks would train with different hyper-parameters"),
        pytest.param(("hydra/launcher=basic",), "omit hydra/launcher (pool)", marks=pytest.mark.slow),
    ],
    ids=["sweeper and launcher", "launcher"],
)
def test_hydras_own_ways_are_refused_with_several_processes_a_run(
    command: Callable[..., Any], folder: Path, store: Any, chosen: tuple[str, ...], told: str
) -> None:
    done = command("train.py", "-m", *chosen, *DDP, "optimizer.lr=1e-2,1e-3", *witness(folder))
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert run_count(store) == 0
    assert not list(folder.iterdir())
