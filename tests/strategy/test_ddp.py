"""Two processes with gloo are one process with the same global batch, and one run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from lightning_modules.config.check import check_config
from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.run.preflight import check_device
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.rerun import metric_histories
from lightning_modules.tracking.resume import best_checkpoint

ROOT = Path(__file__).resolve().parents[2]
LOOP = ("model=mlp", "trainer.max_epochs=2", "data.drop_last=true", "callbacks=last", "tracking.system_metrics_s=null",
        "tracking.pictures=false", "~callbacks.progress", "~callbacks.summary")  # fmt: skip


def count_runs(store: Any) -> int:
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    return len(store.client.search_runs(experiments))


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "order"), [("momentum", "shuffled"), ("adam", "balanced")])
def test_two_processes_give_the_weights_of_one_with_the_same_global_batch(
    store: Any, train: Callable[..., Any], optimizer: str, order: str
) -> None:
    words = (f"optimizer={optimizer}", f"data.order={order}", *LOOP)
    two = train("trainer=ddp", "data.batch_size=32", *words, quick=False)
    assert count_runs(store) == 1
    one = train("data.batch_size=64", *words, quick=False)
    ours, theirs = (read_checkpoint(best_checkpoint(store, r))["state_dict"] for r in (two, one))
    assert max(float((ours[key].double() - theirs[key].double()).abs().max()) for key in theirs) < 1e-6
    assert two.data.metrics["test/accuracy"] == one.data.metrics["test/accuracy"]
    assert two.data.metrics["val/loss"] == pytest.approx(one.data.metrics["val/loss"], abs=1e-6)
    assert [step for step, _ in metric_histories(store, two.info.run_id)["val/loss"]] == [19, 38]


def test_a_mistake_in_a_rank_is_reported_as_one_message(train: Callable[..., Any]) -> None:

    with pytest.raises(UserError, match=r"^The loss is (nan|inf) at step"):
        train("trainer=ddp", "optimizer=sgd", "optimizer.lr=1e30")


@pytest.mark.parametrize("setting", ["strategy.timeout_s=-1", "+strategy.slow_ratio=1"])
def test_settings_out_of_range_are_named(setting: str, train: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=rf"{setting.strip('+').replace('.', '[.]')}: expected more than"):
        train("trainer=ddp", setting)


STRATEGIES = sorted(path.stem for path in (ROOT / "conf" / "strategy").glob("*.yaml"))


@pytest.mark.parametrize("option", [name for name in STRATEGIES if name != "auto"])
def test_a_strategy_and_a_number_of_devices_are_sufficient(option: str) -> None:
    cfg = compose_run([f"strategy={option}", "trainer.devices=2"])
    check_config(cfg)
    assert check_device(cfg).type == "cpu"


def test_several_devices_without_a_strategy_are_refused_with_what_to_add() -> None:
    with pytest.raises(UserError, match=r"2 processes need a strategy.*strategy=ddp"):
        check_device(compose_run(["trainer.devices=2"]))


def test_ranks_that_start_from_different_weights_are_refused() -> None:
    import torch.distributed as dist
    import torch.multiprocessing as mp

    assert not dist.is_initialized()
    with pytest.raises(mp.ProcessRaisedException, match="different parameters"):
        mp.start_processes(_start_from_rank, args=(_free_port(),), nprocs=2, start_method="fork")


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start_from_rank(rank: int, port: int) -> None:
    import os

    import torch.distributed as dist
    from pytorch_lightning.plugins.environments import LightningEnvironment

    from lightning_modules.strategy.ddp import CheckedDDP

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    strategy = CheckedDDP()
    strategy.parallel_devices = [torch.device("cpu")] * 2
    strategy.cluster_environment = LightningEnvironment()
    strategy.cluster_environment.set_world_size(2)
    strategy._local_rank = rank
    strategy.model = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(strategy.model.weight, rank)
    strategy.check_ranks_agree()


@pytest.mark.parametrize(("system", "method"), [("linux", "fork"), ("darwin", "popen")])
def test_ranks_are_forked_on_linux_only(system: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_modules.strategy.ddp import CheckedDDP

    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert CheckedDDP()._start_method == method


def test_a_start_method_that_does_not_work_is_rejected(train: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="start_method=spawn: expected 'auto' or 'fork' or 'popen'"):
        train("strategy=ddp", "trainer.devices=2", "strategy.start_method=spawn")


@pytest.mark.slow
def test_processes_that_lightning_starts_anew_make_one_run(store: Any, command: Callable[..., Any]) -> None:
    done = command(
        "train.py", "trainer=ddp", "strategy.start_method=popen", "data.per_class=10", "data.batch_size=8", *LOOP
    )
    assert done.returncode == 0, done.stderr
    assert count_runs(store) == 1
    assert "test/accuracy" in store.client.search_runs(["1"])[0].data.metrics


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["fork", "popen"])
def test_a_signal_ends_all_ranks_and_the_run_can_be_resumed(
    store: Any, command: Callable[..., Any], tmp_path: Path, start_method: str
) -> None:
    words = ["trainer=ddp", f"strategy.start_method={start_method}", "model=mlp", "callbacks.last.every_s=0"]
    program = [sys.executable, str(ROOT / "scripts" / "train.py"), *words, "trainer.max_epochs=100000"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(program, stdout=log, stderr=log)
        folder = Path(store.uri.removeprefix("sqlite:///")).parent
        deadline = time.monotonic() + 120
        while not list(folder.rglob("last.ckpt")) and time.monotonic() < deadline:
            time.sleep(0.2)
        ranks = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        status = process.wait(60)
    assert status == 128 + signal.SIGTERM, (tmp_path / "log").read_text()[-2000:]
    assert len(ranks) >= 1
    assert not [rank for rank in ranks if rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE]
    run = store.client.search_runs(["1"])[0]
    assert run.info.status == "KILLED"
    done = read_checkpoint(next(folder.rglob("last.ckpt")))["epoch"] + 1
    again = command("train.py", f"resume={run.info.run_id}", f"trainer.max_epochs={done + 1}")
    assert again.returncode == 0, again.stderr
    assert "test/accuracy" in store.client.get_run(run.info.run_id).data.metrics


@pytest.mark.slow
def test_a_signal_in_the_middle_of_a_collective_ends_all_ranks_too(store: Any, tmp_path: Path) -> None:
    words = ["trainer=ddp", "strategy.start_method=popen", "data.per_class=10", "model=mlp", "~callbacks.progress"]
    ends = "+callbacks.ends._target_=signal_in_collective.SignalDuringCollective"
    program = [sys.executable, str(ROOT / "scripts" / "train.py"), *words, ends, "trainer.max_epochs=5"]
    paths = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(program, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": paths})
        try:
            status = process.wait(150)
        finally:
            for left in (
                [*psutil.Process(process.pid).children(recursive=True), process] if process.poll() is None else []
            ):
                left.kill()
    assert status == 128 + signal.SIGTERM, (tmp_path / "log").read_text()[-2000:]
    assert store.client.search_runs(["1"])[0].info.status == "KILLED"
