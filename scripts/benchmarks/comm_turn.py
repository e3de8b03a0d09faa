"""One turn of the communication benchmark: two ranks on a loopback of their own, and what they measured themselves."""

import ctypes
import json
import multiprocessing as mp
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

WARM_UP, STEPS, BATCH = 8, 32, 64  # batches, multiples of the local steps' period; samples of one rank
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET of <linux/sched.h>
_FOLDER = "TOUCHSTONE_COMM"


class Turn(NamedTuple):
    """Of one batch: seconds, CPU seconds of all ranks, bytes on the loopback, seconds in communication (None: unknown)."""

    seconds: float
    cpu_s: float
    wire: float
    comm_s: float | None
    samples: int

    @property
    def cpu_per_sample(self) -> float:
        return self.cpu_s / self.samples

    @property
    def samples_per_s(self) -> float:
        return self.samples / self.seconds


def turn(work: Callable[[], None], rate: str | None = None) -> Turn:
    """Run `work`, whose ranks call `begin` and `end`, in a process whose loopback carries nothing else.

    `rate`: of that loopback, as ``tc`` writes it (``100mbit``), where the system allows.
    """
    with tempfile.TemporaryDirectory() as folder:
        process = mp.get_context("fork").Process(target=_apart, args=(work, folder, rate))
        process.start()
        process.join()
        told = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("rank-*.json"))]
    if process.exitcode or not told:
        raise RuntimeError(f"a turn ended with {process.exitcode}")
    batches = told[0]["batches"]
    return Turn(
        max(rank["wall"] for rank in told) / batches,
        sum(rank["cpu"] for rank in told) / batches,
        max(rank["wire"] for rank in told) / batches,
        told[0]["comm_s"],
        BATCH * len(told),
    )


def _apart(work: Callable[[], None], folder: str, rate: str | None) -> None:
    os.environ.update({_FOLDER: folder, "OMP_NUM_THREADS": "1"})
    own = own_loopback(rate)
    if rate and not own:
        raise SystemExit("tc and a network namespace are needed: are you root?")
    work()


def own_loopback(rate: str | None = None) -> bool:
    """Move this process into a network of its own, its loopback slowed to `rate`; whether the system allowed it."""
    if ctypes.CDLL(None).unshare(_NEW_NETWORK):
        return False
    commands = ["ip link set lo up"]
    commands += [f"tc qdisc add dev lo root tbf rate {rate} burst 128kb latency 400ms"] if rate else []
    return all(subprocess.run(words.split(), capture_output=True).returncode == 0 for words in commands)


def loopback_bytes() -> int:
    """What has been sent on this network's loopback."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[8])
    return 0


_STARTED: dict[str, float] = {}


def begin() -> None:
    """The measured steps begin here; all ranks wait for each other."""
    keep_memory()
    _meet()
    _STARTED.update(wall=time.perf_counter(), cpu=time.process_time(), wire=loopback_bytes())


def keep_memory() -> None:
    """Have the C library keep what is freed: a process that has once freed a large block does, others fault pages anew.

    Without it a loop would be quicker or slower by a fifth for what it has loaded before.
    """
    import torch

    torch.empty(24 * 2**20, dtype=torch.uint8).fill_(1)


def end(batches: int | None = None, comm_s: float | None = None) -> None:
    """They end here, after so many batches (`STEPS`); write down what they took, for `turn`."""
    now = {"wall": time.perf_counter(), "cpu": time.process_time()}
    _meet()
    now["wire"] = loopback_bytes()
    taken = {key: value - _STARTED[key] for key, value in now.items()}
    rank = os.environ.get("LOCAL_RANK", "0")
    path = Path(os.environ[_FOLDER]) / f"rank-{rank}.json"
    path.write_text(json.dumps({**taken, "batches": batches or STEPS, "comm_s": comm_s}))


def _meet() -> None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def stopwatch() -> Any:
    """A callback that measures `STEPS` batches after the first `WARM_UP`, or a few more where a call takes several."""
    from pytorch_lightning import Callback, Trainer

    class Stopwatch(Callback):
        seen, begun = 0, -1

        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            if self.begun < 0 and self.seen >= WARM_UP:
                self.begun = self.seen
                begin()

        def on_train_batch_end(self, trainer: Trainer, task: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.seen += -(-len(batch["y"]) // task.batch_size)
            if self.begun >= 0 and self.seen - self.begun >= STEPS:
                seconds = getattr(trainer.strategy, "comm_seconds", lambda: None)()
                end(self.seen - self.begun, seconds[0] if seconds else None)
                self.begun = 1 << 60
                trainer.should_stop = True

    return Stopwatch()


def harness(words: Sequence[str]) -> Callable[[], None]:
    """Train what ``train.py`` would, without a record."""

    def work() -> None:
        import contextlib

        from lightning_modules.config.command_line import compose_run
        from lightning_modules.run.run import run

        with Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
            run(compose_run([*words, "+callbacks.stopwatch._target_=benchmarks.comm_turn.stopwatch"]))

    return work
