"""A rank that fails ends the run with one message and no processes left; the run resumes from its checkpoint."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
from gloo_process_group import run_on_ranks
from torch.multiprocessing import ProcessExitedException

from lightning_modules.compat.torch import is_connection_error
from lightning_modules.config.errors import UserError
from lightning_modules.strategy.launch.failures import merge_errors
from lightning_modules.strategy.launch.rank_status import ExitReason
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.zoo.strategy.sharded_checkpoint import read_shards, write_shards

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("trainer=ddp", "trainer.max_epochs=4", "data.per_class=10", "data.batch_size=8", "model=mlp", "callbacks=last",
         "callbacks.last.every_s=0", "tracking.pictures=false", "tracking.system_metrics_s=null", "~callbacks.progress",
         "~callbacks.summary")  # fmt: skip


def failing_callback(folder: Path, kind: str, rank: int = 1) -> list[str]:
    node = {"_target_": "failing_rank_callbacks.FailOnce", "folder": f"'{folder}'", "harm": kind, "rank": rank}
    return [f"+callbacks.once.{key}={value}" for key, value in node.items()]


class CommandResult:
    """How a command ended, once nothing of it is left."""

    def __init__(self, folder: Path, start: str, *words: str) -> None:
        mark = uuid.uuid4().hex
        program = [sys.executable, str(ROOT / "scripts" / "train.py"), *WORDS, *words]
        if start == "torchrun":
            program[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        elif start == "popen":
            program.append("strategy.start_method=popen")
        paths = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            program, cwd=folder, env={**os.environ, "PYTHONPATH": paths, "RANKS_TEST": mark},
            capture_output=True, text=True, check=False, timeout=200,
        )  # fmt: skip
        self.code, self.said = done.returncode, done.stderr
        self.since_mark = time.time() - (folder / "done").stat().st_mtime
        self.left = [process for process in psutil.process_iter() if _is_of(process, mark)]


def _is_of(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get("RANKS_TEST") == mark and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def only_run(store: Any) -> Any:
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    (run,) = store.client.search_runs(experiments)
    return run


def weights(store: Any, run: Any) -> dict[str, Any]:
    state: dict[str, Any] = read_checkpoint(artifact_path(store, run, "checkpoints/last.ckpt"))["state_dict"]
    return state


def check_reported_once(store: Any, ended: CommandResult, message: str) -> Any:
    """The run is FAILED with the message, which was printed once, and nothing is left running."""
    assert ended.code not in (0, None), ended.said
    run = only_run(store)
    assert run.info.status == "FAILED", ended.said
    error = run.data.tags["touchstone.error"]
    assert error.startswith(f"UserError: {message}"), error
    assert ended.said.count(message) == 1, ended.said
    assert not ended.left
    return run


@pytest.fixture
def importable_callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The callbacks of the tests can be imported, and are trusted where a config is read from a store."""
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    monkeypatch.setenv("TOUCHSTONE_TRUST", "failing_rank_callbacks")


def check_resumes(store: Any, train: Callable[..., Any], run: Any) -> None:
    """The failed run goes on, and ends with the weights of one that was not disturbed."""
    train(f"resume={run.info.run_id}", "++strategy.start_method=fork", quick=False)
    whole = train(*WORDS, quick=False)
    found, expected = weights(store, run), weights(store, whole)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


# --- a rank that is killed -------------------------------------------------------------------------------------
@pytest.mark.usefixtures("importable_callbacks")
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_rank_fails_the_run_which_then_resumes_to_the_weights_of_an_undisturbed_one(
    store: Any, train: Callable[..., Any], tmp_path: Path, rank: int
) -> None:
    pattern = (
        rf"^Rank {rank} of 2, process \d+, was killed by SIGKILL .*; resume=\w+ continues from the last checkpoint$"
    )
    with pytest.raises(UserError, match=pattern):
        train(*WORDS, *failing_callback(tmp_path, "die", rank), quick=False)
    run = only_run(store)
    assert run.info.status == "FAILED"
    assert f"UserError: Rank {rank} of 2, process" in run.data.tags["touchstone.error"]
    assert f"resume={run.info.run_id} " in run.data.tags["touchstone.error"]
    check_resumes(store, train, run)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("importable_callbacks")
@pytest.mark.parametrize("start", ["fork", "popen", "torchrun"])
def test_a_killed_rank_is_reported_once_at_every_start(
    store: Any, train: Callable[..., Any], tmp_path: Path, start: str
) -> None:
    ended = CommandResult(tmp_path, start, *failing_callback(tmp_path, "die"))
    run = check_reported_once(store, ended, "Rank 1 of 2, process ")
    assert ("SIGKILL" in ended.said) or start == "torchrun"
    assert ended.since_mark < 30
    assert f"resume={run.info.run_id} continues" in ended.said
    check_resumes(store, train, run)


# --- a rank that makes a mistake -------------------------------------------------------------------------------
MISTAKES = {
    "poison": "Rank 1 of 2: The loss is nan at step ",
    "mistake": "Rank 1 of 2: data.root=/there: this file is on one machine alone",
    "fault": "Rank 1 of 2: KeyError: 'no such key' (failing_rank_callbacks.py, line ",
}


@pytest.mark.slow
@pytest.mark.usefixtures("importable_callbacks")
@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_of_one_forked_rank_is_reported_with_its_number(
    store: Any, train: Callable[..., Any], tmp_path: Path, kind: str
) -> None:
    with pytest.raises(UserError) as caught:
        train(*WORDS, *failing_callback(tmp_path, kind), quick=False)
    assert str(caught.value).startswith(MISTAKES[kind])
    assert only_run(store).data.tags["touchstone.error"].startswith(f"UserError: {MISTAKES[kind]}")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("start", "kind", "rank"),
    [
        ("fork", "fault", 1),
        *((start, kind, 1) for start in ("popen", "torchrun") for kind in MISTAKES),
        *((start, "fault", 0) for start in ("popen", "torchrun")),
    ],
)
def test_a_mistake_of_one_rank_is_reported_once_at_every_start(
    store: Any, tmp_path: Path, start: str, kind: str, rank: int
) -> None:
    ended = CommandResult(tmp_path, start, *failing_callback(tmp_path, kind, rank))
    check_reported_once(store, ended, MISTAKES[kind].replace("Rank 1", f"Rank {rank}"))
    assert ended.since_mark < 30


def test_of_several_mistakes_those_of_the_first_step_are_reported() -> None:
    late, early = ExitReason("The loss is nan", step=4), ExitReason("The loss is inf", step=3)
    assert merge_errors({0: late, 1: early}, 2) == "Rank 1 of 2: The loss is inf"
    assert merge_errors({0: ExitReason("same"), 1: ExitReason("same")}, 2) == "same"
    assert merge_errors({0: ExitReason("a"), 1: ExitReason("b")}, 2) == "Rank 0 of 2: a\nRank 1 of 2: b"
    same_step = {rank: ExitReason(f"The loss is nan, samples {rank}", step=3) for rank in (0, 1)}
    assert merge_errors(same_step, 2) == "The loss is nan, samples 0"


def test_connection_errors_are_distinguished_from_errors_of_a_network() -> None:
    assert is_connection_error(RuntimeError("[…/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]"))
    assert is_connection_error(torch.distributed.DistNetworkError("…"))
    assert not is_connection_error(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_connection_error(ValueError("gloo"))


# --- ranks that do not come together ---------------------------------------------------------------------------
def test_a_port_that_is_taken_is_reported_before_a_run_is_made(
    store: Any, train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        with pytest.raises(
            UserError, match=rf"^MASTER_PORT={port}: another program .* unset MASTER_PORT .* another one$"
        ):
            train(*WORDS, quick=False)
    assert not store.client.search_runs(["0", "1"])


@pytest.mark.slow
def test_a_node_that_does_not_join_is_reported_after_the_time_given(
    store: Any, train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("NODE_RANK", "0")
    words = ("trainer.num_nodes=2", "trainer.devices=1", "strategy.timeout_s=2")
    with pytest.raises(
        UserError, match=r"^After strategy\.timeout_s=2 seconds 1 of 2 ranks have joined at MASTER_ADDR=127"
    ):
        train(*WORDS, *words, quick=False)
    assert only_run(store).info.status == "FAILED"


# --- ranks with other numbers of batches -----------------------------------------------------------------------
@pytest.mark.usefixtures("importable_callbacks")
def test_ranks_with_other_numbers_of_batches_are_refused_before_training(train: Callable[..., Any]) -> None:
    with pytest.raises(
        UserError, match=r"^The ranks have different numbers of batches per epoch .*: rank 0 has \d+, rank 1 has 3;"
    ):
        train(*WORDS, "+callbacks.fewer._target_=failing_rank_callbacks.FewerBatches", quick=False)


def test_a_set_without_a_whole_batch_for_each_rank_is_refused(train: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"^Too few training samples .* \(rank 0 has 0, rank 1 has 0\)"):
        train(*WORDS, "data.batch_size=64", "data.drop_last=true", quick=False)


# --- a checkpoint of which a part is damaged -------------------------------------------------------------------
SHARDED = ("strategy=fsdp2", "strategy.sharded_checkpoint=true", "decay_norms_and_biases=false")


def truncate_shard(folder: Path) -> str:
    file = folder / "last.shards" / "rank-1-of-2.ckpt"
    file.write_bytes(file.read_bytes()[:500])
    return r"rank-1-of-2\.ckpt is damaged"


def delete_shard(folder: Path) -> str:
    (folder / "last.shards" / "rank-1-of-2.ckpt").unlink()
    return r"is incomplete: it contains rank-0-of-2\.ckpt"


@pytest.mark.slow
@pytest.mark.parametrize("damage", [truncate_shard, delete_shard])
def test_a_run_resumes_from_the_plain_file_where_a_part_is_damaged(
    store: Any, train: Callable[..., Any], tmp_path: Path, damage: Callable[[Path], str]
) -> None:
    run = train(*WORDS, *SHARDED, "trainer.max_epochs=2", quick=False)
    folder = artifact_path(store, run, "checkpoints/last.ckpt").parent
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    said = damage(folder)
    train(f"resume={run.info.run_id}", "trainer.max_epochs=3", quick=False)
    log = artifact_path(store, run, "log.txt").read_text().splitlines()
    warnings = [line for line in log if re.search(said, line)]
    assert len(warnings) == 1
    assert "resuming from last.ckpt" in warnings[0]
    found = weights(store, run)
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    train(f"resume={run.info.run_id}", "trainer.max_epochs=3", quick=False)
    expected = weights(store, run)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.slow
def test_a_run_whose_plain_file_is_damaged_too_is_refused(store: Any, train: Callable[..., Any]) -> None:
    run = train(*WORDS, *SHARDED, "trainer.max_epochs=1", quick=False)
    file = artifact_path(store, run, "checkpoints/last.ckpt")
    truncate_shard(file.parent)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UserError, match=r"^checkpoint .*last\.ckpt is damaged"):
        train(f"resume={run.info.run_id}", "trainer.max_epochs=3", quick=False)


def test_a_rank_killed_while_the_parts_are_written_leaves_the_last_whole_ones(tmp_path: Path) -> None:
    folder = tmp_path / "last.shards"
    run_on_ranks(_write, folder, 1)
    with pytest.raises(ProcessExitedException):
        run_on_ranks(_write, folder, 2)
    assert read_shards(folder)["global_step"] == 1
    run_on_ranks(_write, folder, 3)
    assert read_shards(folder)["global_step"] == 3


def _write(rank: int, folder: Path, step: int) -> None:
    waits = iter(
        [dist.barrier, lambda: os.kill(os.getpid(), signal.SIGKILL) if (step, rank) == (2, 1) else dist.barrier()]
    )
    write_shards(folder, {"global_step": step, "part": torch.zeros(3)}, rank, 2, lambda: next(waits)())
