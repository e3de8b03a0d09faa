"""A signal ends what runs, whenever it comes: while the run is created, where Python drops its exception, from a terminal."""

import copy
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from lightning_modules.config.signals import SignalReceived, defer_signals, raise_if_received, signals_as_exceptions

ROOT = Path(__file__).resolve().parents[2]


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


class Dropped:
    def __del__(self) -> None:
        send()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_that_asks_to_end_is_raised_and_the_former_handler_put_back(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SignalReceived, match=f"ended by signal {number}"), signals_as_exceptions():
        send(number)
    assert signal.getsignal(number) is before


def test_a_hangup_is_ignored_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_as_exceptions():
            send(signal.SIGHUP)
            raise_if_received()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_whose_exception_python_drops_is_raised_at_the_next_check() -> None:
    with signals_as_exceptions():
        dropped = Dropped()
        del dropped
        with pytest.raises(SignalReceived, match="ended by signal 15"):
            raise_if_received()
    with signals_as_exceptions():
        raise_if_received()  # it is over with the block that it ended


def test_a_second_signal_waits_for_what_must_not_be_disturbed() -> None:
    done = []
    with pytest.raises(SignalReceived), signals_as_exceptions():
        try:
            send()
        finally:
            with defer_signals():
                send(signal.SIGINT)
                done.append(1)
    assert done == [1]


def test_a_worker_of_a_data_loader_leaves_the_signal_to_the_process_that_started_it() -> None:
    with signals_as_exceptions():
        worker = multiprocessing.get_context("fork").Process(target=send, args=(signal.SIGINT,), daemon=True)
        worker.start()
        worker.join(20)
    assert worker.exitcode == 0


def statuses(store: Any) -> list[str]:
    return [run.info.status for run in store.client.search_runs(["0", "1"])]


@pytest.mark.slow
def test_a_signal_while_the_run_is_created_leaves_it_killed(
    train: Callable[..., Any], store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes when the run is in the store and nobody knows its id yet."""
    from mlflow.tracking._tracking_service.client import TrackingServiceClient

    create = TrackingServiceClient.create_run

    def create_and_signal(*arguments: Any, **keywords: Any) -> Any:
        run = create(*arguments, **keywords)
        send(signal.SIGHUP)
        return run

    monkeypatch.setattr(TrackingServiceClient, "create_run", create_and_signal)
    with pytest.raises(SignalReceived, match=r"ended by signal 1$"):
        train()
    assert statuses(store) == ["KILLED"]


class SignalInDel(pl.Callback):
    """Sends a signal whose exception Python drops, as an epoch begins."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        Dropped()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("steps_per_call", ["auto", "1"], ids=["quick", "ordinary"])
def test_a_signal_that_python_drops_ends_the_run_at_the_next_step(store: Any, steps_per_call: str) -> None:
    from lightning_modules.config.command_line import compose_run
    from lightning_modules.run.run import run

    quick = ("data.per_class=10", "model=linear", "trainer.max_epochs=2", "tracking.system_metrics_s=null")
    cfg = compose_run([*quick, "~callbacks.progress", "~callbacks.summary", f"steps_per_call={steps_per_call}"])
    with pytest.raises(SignalReceived, match="ended by signal 15"):
        run(cfg, extra=[SignalInDel()])
    assert statuses(store) == ["KILLED"]


ENDLESS = (
    "data.per_class=10", "model=linear", "trainer.max_epochs=100000", "callbacks.last.every_s=0", "~callbacks.progress",
    "~callbacks.summary", "tracking.pictures=false",
)  # fmt: skip


@pytest.mark.slow
def test_a_terminal_that_closes_ends_the_run_as_killed(store: Any, tmp_path: Path) -> None:
    terminal, its_side = os.openpty()

    def take_terminal() -> None:
        os.setsid()
        os.close(os.open(os.ttyname(its_side), os.O_RDWR))  # the first one that a session opens controls it

    with subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "train.py"), *ENDLESS],
        cwd=tmp_path, stdin=its_side, stdout=its_side, stderr=its_side, preexec_fn=take_terminal,
    ) as process:  # fmt: skip
        os.close(its_side)
        for _ in range(1200):
            if process.poll() is not None or list(tmp_path.rglob("checkpoints/last.ckpt")):
                break
            time.sleep(0.1)
        assert statuses(store) == ["RUNNING"]
        os.close(terminal)
        assert process.wait(60) == 128 + signal.SIGHUP
    assert statuses(store) == ["KILLED"]


def test_an_error_that_replaces_the_signal_is_the_signal() -> None:
    """As OmegaConf raises where the signal left a config half changed."""
    with pytest.raises(SignalReceived) as ended, signals_as_exceptions():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise KeyError("half changed")
    assert ended.value.signal_number == signal.SIGTERM
    with pytest.raises(KeyError), signals_as_exceptions():
        raise KeyError("nothing")


@pytest.mark.slow
def test_a_signal_at_any_moment_leaves_no_run_running(store: Any) -> None:
    from lightning_modules.config.command_line import compose_run
    from lightning_modules.run.run import run

    moments = random.Random(0)
    cfg = compose_run(list(ENDLESS))
    ends = 0
    for number in [signal.SIGTERM, signal.SIGHUP, signal.SIGINT] * 5:
        own = copy.deepcopy(cfg)  # a signal within OmegaConf leaves a config that is changed in part
        threading.Timer(moments.uniform(0.0, 0.8), send, (number,)).start()
        with pytest.raises(SignalReceived), signals_as_exceptions():
            run(own)
        ends += 1
    assert ends == 15 and set(statuses(store)) == {"KILLED"}


@pytest.mark.slow
def test_a_signal_in_a_hook_around_a_fork_ends_the_run(store: Any, tmp_path: Path) -> None:
    """What is raised there Python prints and drops."""
    (tmp_path / "forking.py").write_text(
        "import os, signal\nimport pytorch_lightning as pl\n"
        "class Forking(pl.Callback):\n"
        "    def on_train_epoch_start(self, trainer, pl_module):\n"
        "        if trainer.current_epoch == 1:\n"
        "            os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGTERM))\n"
        "            os.fork() or os._exit(0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}", "TOUCHSTONE_TRUST": "forking"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "train.py"), *ENDLESS, "+callbacks.forking._target_=forking.Forking"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "Exception ignored in" in done.stderr
    assert statuses(store) == ["KILLED"]


AT_EXIT = """
import atexit, os, signal
from lightning_modules.config.command_line import report_errors, run_cli

def main():
    atexit.register(lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(3)])
    with report_errors():  # as within Hydra
        os.kill(os.getpid(), signal.SIGINT)

run_cli(main)
"""
WHILE_IT_STARTS = """
import os, signal
from pathlib import Path
from lightning_modules.sweep import process_pool
if __name__ == "__main__":
    process_pool.start_forkserver()
    signal.signal(signal.SIGINT, lambda *_: print("here"))
    os.killpg(0, signal.SIGINT)
    print(process_pool.ProcessPool([], Path()).call(len, "abc"))
"""


def run_code(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, start_new_session=True
    )


def test_more_signals_while_the_process_exits_change_nothing() -> None:
    done = run_code(AT_EXIT)
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, "\nended by signal 2\n")


@pytest.mark.slow
def test_a_signal_while_the_forkserver_imports_leaves_it_alone() -> None:
    done = run_code(WHILE_IT_STARTS)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["here", "3"], "")
