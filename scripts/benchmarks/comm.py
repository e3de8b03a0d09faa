"""What the strategies send, and what that costs here and elsewhere. Longer than 200 lines: each part runs in ranks."""

import functools
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.comm_turn import BATCH, STEPS, WARM_UP, Turn, begin, end, harness, own_loopback, turn
from benchmarks.measure import Row, interleaved, quotients

ROOT = Path(__file__).resolve().parents[2]
PICTURE = Path("mlruns") / "comm_scaling.png"
PERIOD = 8
DATA = ["data=mnist1d"]  # 31 batches an epoch: its end is a part of what is measured
MODELS = {
    "cnn": [*DATA, "model=series_fcn", "model.channels=[96,192,96]"],
    "mlp": [*DATA, "model=mlp", "model.hidden=[1024,512]"],
}
LOOP = ["data.batch_size=64", "data.drop_last=true", "data.val_fraction=0", "optimizer=momentum", "callbacks=last",
        "tracking=none", "~callbacks.progress", "~callbacks.summary", "cpu_threads=1",
        "trainer.max_epochs=-1", "trainer.limit_test_batches=1"]  # fmt: skip
QUICK = "steps_per_call=8"  # as `auto` has it where no callback, like the stopwatch here, looks at each step
STRATEGIES = {  # those whose config is there
    "ddp": [QUICK],
    "ddp_fp16": [QUICK],
    "ddp_bf16": [QUICK],
    "ddp_powersgd": ["strategy.hook.start_step=4"],
    "ddp_topk": [],
    "ddp, accumulate 4": ["trainer.accumulate_grad_batches=4"],
    "local_sgd": [f"strategy.period={PERIOD}"],
    "diloco": [f"strategy.period={PERIOD}"],
    "async_averaging": [f"strategy.period={PERIOD}"],
    "zero1": [],
    "fsdp2": [],
    "tensor_parallel": ["data.batch_size=128"],  # of both ranks, which see the same samples
    "pipeline": ["data.batch_size=128"],
}
HEAD = (
    "| strategy | bytes / ring bound | CPU a sample / one process | samples/s / plain DDP | ms a batch, in communication |\n"
    "|---|---|---|---|---|"
)
BYTES_BARS = {"ddp": 1.03, "ddp_fp16": 0.52, "local_sgd": 1.1 / PERIOD}
RESNET50 = (102.2e6, 0.16)  # assumed: 25.6 million parameters (He et al. 2016), 64 images at 400 a second
SIZES = [4 * 4**k for k in range(4, 12)]  # bytes: 1 KiB to 16 MiB


def run(repeats: int) -> None:
    """Per strategy: bytes, CPU, seconds and samples against one process and plain DDP; then the prediction."""
    os.environ["OMP_NUM_THREADS"] = "1"
    link = fitted()
    rate = f"{link.bytes_per_s / 1e9:.2f} GB/s"
    print(f"\ngloo's sum over two processes of this machine: {link.alpha_s * 1e6:.0f} µs + bytes / {rate}")
    for name, words in MODELS.items():
        turns = interleaved(measures([*words, *LOOP]), repeats)
        size = parameter_bytes(words)
        print(f"\n### {name}, {size / 1e6:.2f} MB of parameters, 2 gloo processes, batch {BATCH} each, n = {repeats}\n")
        print(HEAD, *rows(turns, size, name), sep="\n", flush=True)
        if name == "cnn":
            predict(size, statistics.median(t.cpu_s for t in turns["one process"]), link)


def measures(words: Sequence[str]) -> dict[str, Callable[[], Turn]]:
    """What is measured in turns, by name."""
    batches = WARM_UP + STEPS + 8  # more than are measured: the stopwatch ends the training
    found: dict[str, Callable[[], Turn]] = {
        "one process": functools.partial(turn, harness([*words, QUICK, f"trainer.max_steps={batches}"])),
        "plain DDP": functools.partial(turn, functools.partial(plain_ddp, words)),
    }
    for name, more in STRATEGIES.items():
        option = name.partition(",")[0]
        if (ROOT / "conf" / "strategy" / f"{option}.yaml").exists():
            chosen = [*words, "trainer=ddp", f"strategy={option}", f"trainer.max_steps={batches}", *more]
            found[name] = functools.partial(turn, harness(chosen))
    return found


class Told(NamedTuple):
    """A strategy's line: bytes over the ring bound, CPU a sample over one process, samples a second over plain DDP."""

    name: str
    wire: Row
    cpu: Row
    pace: Row
    batch: str

    def __str__(self) -> str:
        return f"| {self.name} | {self.wire.cell} | {self.cpu.cell} | {self.pace.cell} | {self.batch} |"


def rows(turns: dict[str, list[Turn]], size: int, model: str) -> list[Told]:
    """A line for each strategy that was measured."""
    alone, plain = turns["one process"], turns["plain DDP"]
    found = []
    for name, measured in turns.items():
        if name == "one process":
            continue
        cpu = quotients([t.cpu_per_sample for t in measured], [t.cpu_per_sample for t in alone])
        pace = quotients([t.samples_per_s for t in measured], [t.samples_per_s for t in plain])
        comm = [t.comm_s for t in measured if t.comm_s is not None]
        busy = f", {statistics.median(comm) * 1e3:.1f}" if comm else ""
        found.append(
            Told(
                name,
                Row("bytes", [t.wire / (2 * size) for t in measured], BYTES_BARS.get(name)),
                Row("CPU", cpu, 1.2 if (name, model) == ("ddp", "cnn") else None),
                Row("samples/s", pace, 0.97 if name == "ddp" else None, above=True),
                f"{statistics.median(t.seconds for t in measured) * 1e3:.1f}{busy}",
            )
        )
    return found


def parameter_bytes(words: Sequence[str]) -> int:
    return sum(p.numel() * p.element_size() for p in _parts([*words, *LOOP])[1].parameters())


def _parts(words: Sequence[str]) -> tuple[Any, Any, Any]:
    from hydra.utils import instantiate

    from lightning_modules.config.command_line import compose_run
    from lightning_modules.run import build

    cfg = compose_run(list(words))
    data = build.build_data(cfg)
    build.infer_shapes(cfg, data)
    model = build.build_model(cfg)
    return data, model, instantiate(cfg.optimizer)(model.parameters())


def plain_ddp(words: Sequence[str]) -> None:
    """The loop that one writes by hand around torch's DDP, in two forked processes."""
    import torch.multiprocessing as mp

    parts = _parts(words)
    mp.start_processes(_plain_rank, args=(parts, _free_port()), nprocs=2, start_method="fork")


def _plain_rank(rank: int, parts: tuple[Any, Any, Any], port: int) -> None:
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    data, model, optimizer = parts
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
    x, y, train = data.arrays.x, data.arrays.y, data.splits["train"]
    loss_of, prepare = torch.nn.CrossEntropyLoss(), data.preprocess
    for batch in range(WARM_UP + STEPS):
        if batch == WARM_UP:
            begin()
        index = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(batch))][rank::2][:BATCH]
        loss = loss_of(wrapped(prepare(x.index_select(0, index))), y.index_select(0, index))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    end()
    dist.destroy_process_group()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fitted(rate: str | None = None) -> Any:
    """The link between two processes of this machine, from how long gloo's sums of `SIZES` take."""
    import torch.multiprocessing as mp

    from benchmarks.comm_cost_model import fit_link

    with tempfile.TemporaryDirectory() as folder:
        process = mp.get_context("fork").Process(target=_time_sums, args=(folder, rate))
        process.start()
        process.join()
        times = [float(word) for word in (Path(folder) / "times").read_text().split()]
    return fit_link(rate or "loopback", SIZES, times, 2)


def _time_sums(folder: str, rate: str | None) -> None:
    import torch.multiprocessing as mp

    if not own_loopback(rate) and rate:
        raise SystemExit("tc and a network namespace are needed: are you root?")
    mp.start_processes(_sum_rank, args=(folder, _free_port(), 3 if rate else 15), nprocs=2, start_method="fork")


def _sum_rank(rank: int, folder: str, port: int, repeats: int) -> None:
    import time

    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    medians = []
    for size in SIZES:
        values, times = torch.ones(size // 4), []
        for _ in range(repeats + 2):
            dist.barrier()
            start = time.perf_counter()
            dist.all_reduce(values)
            times.append(time.perf_counter() - start)
        medians.append(statistics.median(times[2:]))
    if rank == 0:
        (Path(folder) / "times").write_text(" ".join(map(str, medians)))
    dist.destroy_process_group()


def predict(size: int, compute_s: float, link: Any) -> None:
    """Draw what the cost model says of 8, 64 and 1024 workers."""
    from benchmarks.comm_cost_model import LINKS, Job, efficiency, plans
    from benchmarks.comm_cost_plot import MARKED, draw_scaling

    job = Job(size, compute_s, overlap=0.6)
    jobs = {"the CNN measured here": job, "ResNet-50, a GPU": Job(*RESNET50, buckets=4, overlap=0.6)}
    draw_scaling(ROOT / PICTURE, jobs, plans(period=PERIOD), link)
    for name, each in jobs.items():
        print(f"\n{name}, predicted efficiency at {', '.join(map(str, MARKED))} workers ({PICTURE}):\n")
        print(f"| strategy | {' | '.join(wire.name for wire in LINKS)} |\n|---|{'---|' * len(LINKS)}")
        for plan in plans(period=PERIOD):
            cells = [" / ".join(f"{efficiency(plan, each, wire, n):.2f}" for n in MARKED) for wire in LINKS]
            print(f"| {plan.name} | {' | '.join(cells)} |")
