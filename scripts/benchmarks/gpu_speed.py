"""What `benchmark.py gpu` measures, one function a subject: ``python -m benchmarks.gpu_speed NAME [cpu]``.

Each measures its rivals in turns within one process and writes medians as lines of JSON; with ``cpu`` it runs a small
version that only shows that it works. Peers: a plain PyTorch loop, the same under CUDA graphs, torchvision v2, kornia.
Longer than 200 lines: a function for each subject.
"""

import contextlib
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import loop
from benchmarks.measure import interleaved, quotients

SMALL = len(sys.argv) > 2 and sys.argv[2] == "cpu"
DEVICE = torch.device("cpu" if SMALL else "cuda")
TURNS = 1 if SMALL else 5
QUIET = ("~callbacks.progress", "~callbacks.summary", "tracking.pictures=false", "tracking.system_metrics_s=null")
TRAINER = "trainer=cpu" if SMALL else "trainer=gpu"


def report(what: str, value: float, bar: float | None = None, above: bool = False, note: str = "") -> None:
    """Write one measurement; `bar` is an upper bound, or a lower one with `above`. NaN: what `note` says was missing."""
    line = _line(what, value, bar, above, note)
    if math.isnan(value):
        line = {"what": what, "status": "not reached", "note": note}
    with Path(os.environ.get("TOUCHSTONE_RESULTS", "/dev/stdout")).open("a") as file:
        file.write(json.dumps(line) + "\n")


def _line(what: str, value: float, bar: float | None, above: bool, note: str) -> dict[str, str]:
    met = bar is None or (value >= bar if above else value <= bar)
    status = "measured" if bar is None else "met" if met else "not met"
    held = "" if bar is None else f"{'≥' if above else '≤'} {bar:g}"
    return {"what": what, "status": status, "value": f"{value:.3g}", "bar": held, "note": note}


def synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], Any]) -> float:
    """Wall seconds of `work`, the device's queue included."""
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def in_turns(measures: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """What each gives in `TURNS` turns, after one that does not count."""
    return interleaved(measures, TURNS)


def spread(ratios: Sequence[float]) -> str:
    return f"{min(ratios):.2f}–{max(ratios):.2f}, n={len(ratios)}"


def trained(choice: Sequence[str]) -> float:
    """Seconds of the epochs after the first of a recorded run."""
    loop.MEASURED["from_epoch"] = 1
    loop.train(choice)
    return float(loop.MEASURED["wall"])


# --- the step --------------------------------------------------------------------------------------------------
def step() -> None:
    """A small MLP on MNIST-1D: our recorded run, a plain loop, and a plain loop under CUDA graphs."""
    epochs, batch = (3, 100) if SMALL else (31, 100)
    choice = ["data=mnist1d", "model=mlp", f"data.batch_size={batch}", f"trainer.max_epochs={epochs}", TRAINER]
    choice += ["data.device=trainer", "data.val_fraction=0.0", "callbacks=last", "trainer.deterministic=false"]
    names = {"ours": [], "ours, cuda_graphs": ["cuda_graphs=true"]}
    runs = {name: lambda more=more: trained([*choice, *QUIET, *more]) for name, more in names.items()}
    plain = {
        "plain": lambda: _plain_epochs(epochs - 1, batch, False),
        "graph": lambda: _plain_epochs(epochs - 1, batch, True),
    }
    times = in_turns({**runs, **plain})
    for name in names:
        for peer, bar in (("plain", 1.2), ("graph", 1.3)):
            ratios = quotients(times[name], times[peer])
            note = f"{spread(ratios)}; {statistics.median(times[name]) * 1e6 / ((epochs - 1) * 40):.0f} us a step"
            report(f"step of a tiny model, {name} / {peer} loop", statistics.median(ratios), bar, note=note)


def _plain_epochs(epochs: int, batch: int, graphs: bool) -> float:
    x, y = torch.randn(4000, 40, device=DEVICE), torch.randint(10, (4000,), device=DEVICE)
    model = nn.Sequential(nn.Linear(40, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), fused=DEVICE.type == "cuda", capturable=DEVICE.type == "cuda")
    loss_of = nn.CrossEntropyLoss()

    def one(xs: Tensor, ys: Tensor) -> None:
        optimizer.zero_grad()
        loss_of(model(xs), ys).backward()
        optimizer.step()

    take = _graphed(one, x[:batch], y[:batch], optimizer) if graphs and DEVICE.type == "cuda" else one

    def epoch() -> None:
        for index in torch.randperm(len(x)).split(batch):
            index = index.to(DEVICE)
            take(x.index_select(0, index), y.index_select(0, index))

    epoch()
    return seconds(lambda: [epoch() for _ in range(epochs)])


def _graphed(one: Callable[..., None], x: Tensor, y: Tensor, optimizer: Any) -> Callable[..., None]:
    """The whole step as one CUDA graph, as PyTorch's documentation does it."""
    xs, ys = x.clone(), y.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            one(xs, ys)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        one(xs, ys)

    def replay(a: Tensor, b: Tensor) -> None:
        xs.copy_(a)
        ys.copy_(b)
        graph.replay()

    return replay


# --- transforms ------------------------------------------------------------------------------------------------
def transforms() -> None:
    """Crop, flip and normalise of uint8 3x32x32 on the device, against torchvision v2 and kornia on the whole batch."""
    from torchvision.transforms import v2

    from lightning_modules.augmentation.image.crop_flip import CropFlip
    from lightning_modules.data.preprocess import Standardize

    count, repeats = (256, 2) if SMALL else (4096, 20)
    x = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8).to(DEVICE)
    mean, std = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
    ours, normalise, generator = CropFlip(), Standardize(mean, std).to(DEVICE), torch.Generator()
    theirs = v2.Compose(
        [
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, std),
        ]
    )
    work: dict[str, Callable[[], Any]] = {
        "ours": lambda: normalise(ours({"x": x, "y": x}, generator)["x"]),
        "torchvision (one draw a batch)": lambda: theirs(x),
    }
    if find_spec("kornia"):
        import kornia.augmentation as k

        rival = k.AugmentationSequential(
            k.RandomCrop((32, 32), padding=4), k.RandomHorizontalFlip(), k.Normalize(mean, std), data_keys=["input"]
        ).to(DEVICE)
        work["kornia"] = lambda: rival(x.float() / 255)
    floats, copy = torch.empty(count, 3, 32, 32, device=DEVICE), torch.randn(count, 3, 32, 32, device=DEVICE)
    work["device copy of the result"] = lambda: floats.copy_(copy)
    times = in_turns(
        {name: lambda call=call: seconds(lambda: [call() for _ in range(repeats)]) for name, call in work.items()}
    )
    for name, bar in (("torchvision (one draw a batch)", None), ("kornia", 3.0)):
        if name in times:
            ratios = quotients(times[name], times["ours"])
            rate = f"{count * repeats / statistics.median(times['ours']):,.0f} samples/s; {spread(ratios)}"
            report(
                f"crop + flip + normalise: times as fast as {name}",
                statistics.median(ratios),
                bar,
                above=True,
                note=rate,
            )
        else:
            report(f"crop + flip + normalise against {name}", float("nan"), note=f"{name} is not installed")
    share = quotients(times["device copy of the result"], times["ours"])
    report(
        "crop + flip + normalise: share of a device copy's speed",
        statistics.median(share),
        0.3,
        above=True,
        note=spread(share),
    )


# --- data ------------------------------------------------------------------------------------------------------
def device_data() -> None:
    """ResNet-20 at batch 512: how much of the wall time the GPU computes, for data on the device and in main memory."""
    choice = [
        "data=fashion_mnist",
        "model=mlp" if SMALL else "model=resnet20",
        "data.batch_size=512",
        "augmentation=image_basic",
    ]
    choice += ["trainer.max_epochs=2", "data.fraction=0.1" if SMALL else "data.fraction=1.0", TRAINER, "callbacks=last"]
    choice += ["trainer.deterministic=false", "data.val_fraction=0.0", "steps_per_call=1"]
    times = in_turns(
        {place: lambda place=place: trained([*choice, *QUIET, f"data.device={place}"]) for place in ("trainer", "cpu")}
    )
    ratios = quotients(times["cpu"], times["trainer"])
    report("epoch with pinned prefetch / with data.device=trainer", statistics.median(ratios), note=spread(ratios))
    if DEVICE.type == "cpu":
        return
    for place in ("trainer", "cpu"):
        wall = trained(
            [*choice, f"data.device={place}", "+callbacks.kernels._target_=benchmarks.gpu_speed.kernel_clock"]
        )
        share = loop.MEASURED["kernels"] / wall
        report(
            f"kernel time / wall, data.device={place}",
            share,
            0.9 if place == "trainer" else None,
            True,
            f"{wall:.2f} s an epoch",
        )


def kernel_clock() -> Any:
    """A callback that sums up the time of the GPU's kernels from the second epoch on."""
    from pytorch_lightning import Callback
    from torch.profiler import ProfilerActivity, profile

    class Kernels(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                self.profiler = profile(activities=[ProfilerActivity.CUDA])
                self.profiler.start()

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            synchronize()
            self.profiler.stop()
            events = self.profiler.key_averages()
            loop.MEASURED["kernels"] = sum(event.device_time_total for event in events) / 1e6

    return Kernels()


def logging() -> None:
    """A recorded run against the same with tracking=none."""
    choice = [
        "data=fashion_mnist",
        "model=mlp" if SMALL else "model=resnet20",
        "data.batch_size=512",
        TRAINER,
        "trainer.max_epochs=3",
    ]
    choice += [
        "data.device=trainer",
        "trainer.deterministic=false",
        "data.fraction=0.1" if SMALL else "data.fraction=1.0",
    ]
    times = in_turns({"on": lambda: trained(choice), "off": lambda: trained([*choice, "tracking=none"])})
    ratios = quotients(times["on"], times["off"])
    report("logging on / off", statistics.median(ratios), 1.02, note=spread(ratios))


# --- to an accuracy --------------------------------------------------------------------------------------------
def fashion_mnist() -> None:
    """`experiment=fast/fashion_mnist` against a hand-written loop with the same network, schedule and transforms."""
    _to_accuracy("fashion_mnist", ["experiment=fast/fashion_mnist"], 0.93)


def colour_images() -> None:
    """The same for 32x32 colour photographs, which the second pack brings."""
    root = os.environ.get("TOUCHSTONE_COLOUR_IMAGES", "")
    if not Path(root, "train").is_dir():
        report(
            "colour images to 90 %", float("nan"), note="TOUCHSTONE_COLOUR_IMAGES names no folder with train/ and test/"
        )
        return
    _to_accuracy("colour images", ["experiment=fast/cifar10_jpeg", f"data.root={root}"], 0.90)


def _to_accuracy(name: str, choice: list[str], target: float) -> None:
    if SMALL:
        choice = [
            *choice,
            "trainer=cpu",
            "trainer.precision=32-true",
            "model=lenet5",
            "trainer.max_epochs=1",
            "data.fraction=0.05",
        ]
    ours, theirs, ratios = [], [], []
    for seed in range(TURNS):
        a, b = _ours([*choice, f"seed={seed}", *QUIET]), _by_hand([*choice, f"seed={seed}"])
        ours.append(a)
        theirs.append(b)
        ratios.append(a[0] / b[0])
        best = statistics.mean(accuracy for _, accuracy in ours)
        note = f"ours {a[0]:.1f} s {a[1]:.4f}, by hand {b[0]:.1f} s {b[1]:.4f}"
        report(f"{name}, seed {seed}: seconds ours / by hand", ratios[-1], note=note)
    report(f"{name}: seconds ours / by hand", statistics.median(ratios), 1.5, note=spread(ratios))
    report(
        f"{name}: mean test accuracy",
        best,
        target,
        above=True,
        note=f"by hand {statistics.mean(a for _, a in theirs):.4f}",
    )


def _ours(choice: list[str]) -> tuple[float, float]:
    from lightning_modules.config.command_line import compose_run
    from lightning_modules.run.run import run

    loop.MEASURED["from_epoch"] = 0
    with Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null):
        metrics = run(compose_run([*choice, "+callbacks.clock._target_=benchmarks.loop.clock"]))
    return float(loop.MEASURED["wall"]), metrics["test/accuracy"]


def _by_hand(choice: list[str]) -> tuple[float, float]:
    """A loop as one writes it for speed: data and transforms on the device, autocast, one_cycle, no harness."""
    from lightning_modules.augmentation.image.crop_flip import CropFlip
    from lightning_modules.config.command_line import compose_run
    from lightning_modules.run import build

    cfg = compose_run(choice)
    data = build.build_data(cfg)
    build.infer_shapes(cfg, data)
    model = nn.Sequential(data.preprocess, build.build_model(cfg)).to(DEVICE)
    model.to(memory_format=torch.channels_last)
    train = data.splits["train"]
    x, y = data.arrays.x[train].to(DEVICE), data.arrays.y[train].to(DEVICE)
    test_x, test_y = (part.to(DEVICE) for part in data.arrays.test)
    size, epochs = cfg.data.batch_size, cfg.trainer.max_epochs
    steps = epochs * -(-len(x) // size)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": cfg.optimizer.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=cfg.optimizer.lr, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, cfg.optimizer.lr, steps, pct_start=0.2)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)
    crop_flip, generator = (
        CropFlip(cfg.augmentation.transforms.crop_flip.padding),
        torch.Generator().manual_seed(cfg.seed),
    )
    half = torch.autocast(DEVICE.type, torch.bfloat16, enabled="bf16" in cfg.trainer.precision)

    def fit() -> None:
        for _ in range(epochs):
            for index in torch.randperm(len(x)).to(DEVICE).split(size):
                batch = crop_flip({"x": x.index_select(0, index), "y": y.index_select(0, index)}, generator)
                with half:
                    loss = loss_of(model(batch["x"]), batch["y"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()

    torch.backends.cudnn.benchmark = True
    wall = seconds(fit)
    model.eval()
    with torch.no_grad(), half:
        right = sum(
            (model(a).argmax(1) == b).sum() for a, b in zip(test_x.split(2000), test_y.split(2000), strict=True)
        )
    return wall, float(right) / len(test_y)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
