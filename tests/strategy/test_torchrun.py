"""Ranks that torchrun has started make the run that they make where the first of them starts the others."""

import multiprocessing as mp
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from lightning_modules.config.errors import UserError
from lightning_modules.strategy.launch.rendezvous import renegotiate_port
from lightning_modules.tracking import elastic
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.rerun import metric_histories
from lightning_modules.tracking.resume import best_checkpoint

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("trainer=ddp", "trainer.max_epochs=2", "data.per_class=10", "model=mlp", "callbacks=last", "tracking.pictures=false",
         "tracking.system_metrics_s=null", "~callbacks.progress", "~callbacks.summary")  # fmt: skip


def torchrun(folder: Path, *words: str, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [*program, f"--max-restarts={restarts}", str(ROOT / "scripts" / "train.py"), *words],
        cwd=folder, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip


def runs_of(store: Any) -> list[Any]:
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    return list(store.client.search_runs(experiments, order_by=["attributes.start_time DESC"]))


@pytest.mark.slow
@pytest.mark.long
def test_torchrun_gives_one_run_with_the_weights_of_our_own_start(
    store: Any, train: Callable[..., Any], tmp_path: Path
) -> None:
    done = torchrun(tmp_path, *WORDS)
    assert done.returncode == 0, done.stderr[-3000:]
    (theirs,) = runs_of(store)
    assert theirs.info.status == "FINISHED"
    assert theirs.data.metrics["comm/world_size"] == 2
    ours = train(*WORDS, quick=False)
    first, second = (read_checkpoint(best_checkpoint(store, run))["state_dict"] for run in (ours, theirs))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert ours.data.metrics["test/loss"] == theirs.data.metrics["test/loss"]


@pytest.mark.slow
def test_ranks_with_another_config_end_with_one_message_and_one_failed_run(store: Any, tmp_path: Path) -> None:
    done = torchrun(tmp_path, *WORDS, 'seed="${oc.decode:${oc.env:RANK}}"')
    assert done.returncode != 0
    assert done.stderr.count("The ranks disagree:") == 1, done.stderr[-3000:]
    assert done.stderr.count("  rank 1 has seed=1 (rank 0: 0)") == 1
    (run,) = runs_of(store)
    assert run.info.status == "FAILED"


# --- elastic: torchrun starts the ranks again ---------------------------------------------------------------------


def killed(mark: Path, kind: str = "KillOnce", **settings: int) -> list[str]:
    """The overrides that add a callback of `kill_once_callbacks`."""
    words = {"_target_": f"kill_once_callbacks.{kind}", "mark": f"'{mark}'", **settings}
    return [f"+callbacks.killed.{key}={value}" for key, value in words.items()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "at", "said"),
    [
        (1, 2, "resumes after epoch 2"),
        pytest.param(0, 0, "has no checkpoint yet; restarting from scratch", marks=pytest.mark.long),
    ],
)
def test_a_run_resumes_by_itself_when_torchrun_starts_its_ranks_again(
    store: Any, train: Callable[..., Any], tmp_path: Path, rank: int, at: int, said: str
) -> None:
    words = [*WORDS, "trainer.max_epochs=3", "callbacks.last.every_s=0", "trainer.log_every_n_steps=1"]
    done = torchrun(tmp_path, *words, *killed(tmp_path / "mark", rank=rank, at=at), restarts=3)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "mark").exists()
    (again,) = runs_of(store)
    assert (again.info.status, again.data.tags[elastic.RESTARTS_TAG]) == ("FINISHED", "1")
    assert "touchstone.error" not in again.data.tags
    assert done.stdout.count("torchrun restarted the ranks") == 1
    assert said in done.stdout
    undisturbed = train(*words, quick=False)
    ours, theirs = (read_checkpoint(best_checkpoint(store, run))["state_dict"] for run in (again, undisturbed))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    points, wanted = (metric_histories(store, run.info.run_id) for run in (again, undisturbed))
    assert {key: points[key] for key in ("train/loss", "test/loss")} == {
        key: wanted[key] for key in ("train/loss", "test/loss")
    }
    for metric, history in points.items():
        assert len({step for step, _ in history}) == len(history), metric


@pytest.mark.slow
@pytest.mark.long
def test_a_rank_that_died_before_there_was_a_run_costs_nothing_but_the_attempt(store: Any, tmp_path: Path) -> None:
    done = torchrun(tmp_path, *WORDS, *killed(tmp_path / "mark", "KillDuringBuild"), restarts=2)
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = runs_of(store)
    assert run.info.status == "FINISHED"
    assert elastic.RESTARTS_TAG not in run.data.tags


@pytest.mark.slow
@pytest.mark.long
def test_a_mistake_is_reported_once_however_often_torchrun_tries(store: Any, tmp_path: Path) -> None:
    done = torchrun(tmp_path, *WORDS, "init_from=nobody", restarts=2)
    assert done.returncode != 0
    assert (done.stdout + done.stderr).count("nobody") == 1, done.stderr[-3000:]
    assert runs_of(store) == []


@pytest.fixture
def attempt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make this process an attempt of a torchrun job of one rank."""

    def begin(number: int, name: str = "a job", nodes: int = 1, most: int = 3) -> None:
        alone = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}
        job = {"RUN_ID": name, "RESTART_COUNT": number, "MAX_RESTARTS": most, "USE_AGENT_STORE": True}
        values = {**alone, "GROUP_WORLD_SIZE": nodes, **{f"TORCHELASTIC_{key}": value for key, value in job.items()}}
        for key, value in values.items():
            monkeypatch.setenv(key, str(value))

    return begin


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a job", "none"])
def test_the_next_attempt_of_a_job_resumes_the_run_of_the_one_before(
    store: Any, train: Callable[..., Any], attempt: Callable[..., None], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    fails = ("optimizer=sgd", "optimizer.lr=1e30")
    attempt(0, name)
    with pytest.raises(UserError, match="The loss is"):
        train(*fails)
    attempt(1, name)
    with pytest.raises(UserError, match="The loss is"):
        train(*fails)
    (failed,) = runs_of(store)
    assert failed.data.tags[elastic.RESTARTS_TAG] == "1"
    assert capsys.readouterr().out.count("torchrun restarted the ranks") == 1
    train("data.per_class=11")  # another config under the same name is another run
    attempt(0, "another job")
    train("data.per_class=11")
    assert sorted(run.info.status for run in runs_of(store)) == ["FAILED", "FINISHED", "FINISHED"]


@pytest.mark.slow
def test_a_mistake_ends_the_other_attempts_without_a_word(
    store: Any, train: Callable[..., Any], attempt: Callable[..., None]
) -> None:
    attempt(0, most=2)
    with pytest.raises(UserError, match="nobody"):
        train("init_from=nobody")
    for number in (1, 2):
        attempt(number, most=2)
        with pytest.raises(SystemExit) as ended:
            train("init_from=nobody")
        assert ended.value.code == 1
    assert not list((ROOT / "mlruns" / "work").glob("torchrun-*.told"))


def test_a_job_of_several_machines_that_may_start_again_needs_a_name(attempt: Callable[..., None]) -> None:
    attempt(0, "none", nodes=2)
    with pytest.raises(UserError, match="--rdzv-id=NAME"):
        elastic.torchrun_job()
    attempt(0, "none", nodes=2, most=0)
    assert elastic.torchrun_job() is None


@pytest.mark.slow
def test_ranks_that_are_started_again_do_not_take_the_dead_for_their_peers() -> None:
    agent = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = mp.get_context("fork")
    ports = []
    for _ in range(3):
        told = context.SimpleQueue()
        ranks = [context.Process(target=_join_group, args=(rank, agent.port, told)) for rank in range(2)]
        for rank in reversed(ranks):
            rank.start()
        for rank in ranks:
            rank.join(60)
            assert rank.exitcode == 0
        found = {told.get() for _ in ranks}
        assert len(found) == 1, "all ranks have one port"
        ports += found
    assert agent.port not in ports


def _join_group(rank: int, port: int, told: Any) -> None:
    elastic_job = {"TORCHELASTIC_MAX_RESTARTS": "3", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    os.environ.update(elastic_job, RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    renegotiate_port(timeout_s=20)
    dist.init_process_group("gloo", rank=rank, world_size=2, timeout=timedelta(seconds=20))
    ones = torch.ones(1)
    dist.all_reduce(ones)
    assert ones == 2
    told.put(os.environ["MASTER_PORT"])
    os._exit(0)  # as one that is killed: nothing is taken back from the store
