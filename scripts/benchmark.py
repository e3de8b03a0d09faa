"""What the harness costs, as ratios measured side by side: ``python scripts/benchmark.py overhead|data|logging|startup|all``.

Each table holds the median and the range over interleaved repeats (A B A B …) in one process with one thread. A bar
that is not met is printed as such; the exit code says nothing of speed.
"""

import argparse
import contextlib
import functools
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

SCRIPTS = Path(__file__).resolve().parent
WARM_UP, EPOCHS, STEPS, PER_STEP = 2, 60, 1000, 3
MEASURED: dict[str, Any] = {}  # what `clock` saw of the last run


class Row(NamedTuple):
    what: str
    ratios: Sequence[float]
    bar: float | None
    above: bool = False  # whether the bar is a lower bound
    note: str = ""

    def __str__(self) -> str:
        middle, low, high = statistics.median(self.ratios), min(self.ratios), max(self.ratios)
        met = middle >= (self.bar or 0) if self.above else middle <= (self.bar or middle)
        bar = f"{'≥' if self.above else '≤'} {self.bar:g} | {'met' if met else 'NOT MET'}" if self.bar else "– | –"
        return f"| {self.what} | {len(self.ratios)} | {middle:.2f} | {low:.2f}–{high:.2f} | {bar} | {self.note} |"


def table(title: str, rows: Sequence[Row]) -> None:
    """Print rows as a Markdown table."""
    print(f"\n### {title}\n\n| what | n | median ratio | min–max | bar | | note |\n|---|---|---|---|---|---|---|")
    print(*rows, sep="\n", flush=True)


# --- startup ---------------------------------------------------------------------------------------------------
def startup(repeats: int) -> None:
    """CPU time of the answers that need no training, against the import of Hydra and a trivial Hydra app."""
    train = str(SCRIPTS / "train.py")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.yaml").write_text("a: 1\n")
        app = Path(folder) / "app.py"
        app.write_text(
            "import hydra\n@hydra.main(version_base='1.3', config_path='.', config_name='config')\n"
            "def main(cfg): pass\nmain()\n"
        )
        trivial = [str(app), "hydra.output_subdir=null", f"hydra.run.dir={folder}", "hydra/job_logging=none"]
        commands = {
            "import hydra": ["-c", "import hydra"], "a trivial Hydra app": trivial, "train.py --help": [train, "--help"],
            "train.py --cfg job": [train, "--cfg", "job"], "shell completion": [train, "-sc", "query=bash"],
            "a misspelt override": [train, "modle=mlp"],
        }  # fmt: skip
        times = interleaved({name: functools.partial(cpu_of, command) for name, command in commands.items()}, repeats)
    base, app_time = times.pop("import hydra"), times["a trivial Hydra app"]
    rows = [Row("a trivial Hydra app / import hydra", quotients(times.pop("a trivial Hydra app"), base), None)]
    for name, seconds in times.items():
        took = f"{statistics.median(seconds):.2f} s"
        rows += [Row(f"{name} / import hydra", quotients(seconds, base), 4, note=took)]
        rows += [Row(f"{name} / a trivial Hydra app", quotients(seconds, app_time), None)]
    table("startup (CPU time of a process)", rows)


def cpu_of(arguments: Sequence[str]) -> float:
    """CPU seconds, user and system, of ``python ARGUMENTS``."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    line = "python train.py data=fas"
    environment = {**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))}
    subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# --- overhead --------------------------------------------------------------------------------------------------
def overhead(repeats: int) -> None:
    """Epochs of train.py's loop against plain PyTorch: the smallest model, equal weights, the same validations."""
    choice = ["data=mnist1d", "model=linear", "data.batch_size=100", f"trainer.max_epochs={EPOCHS}"]
    rows = []
    for name, more in {
        "recorded, default callbacks": [], "recorded, no progress bar": ["~callbacks.progress"],
        "tracking=none, no progress bar": ["tracking=none", "~callbacks.progress"],
    }.items():  # fmt: skip
        times = interleaved(
            {"plain": lambda: plain_epochs(choice), "ours": functools.partial(our_epochs, [*choice, *more])},
            repeats,
        )
        per_epoch = f"{statistics.median(times['ours']) * 1e3:.1f} ms an epoch, weights bit-equal"
        rows.append(Row(f"{name} / plain loop", quotients(times["ours"], times["plain"]), 1.5, note=per_epoch))
    title = f"overhead (CPU time of an epoch: MNIST-1D, linear, batch 100, {EPOCHS - WARM_UP} epochs after {WARM_UP})"
    table(title, rows)


def plain_epochs(choice: Sequence[str]) -> float:
    """Seconds of one epoch of a loop without a harness; keeps the weights."""
    import numpy as np
    import torch
    from hydra.utils import instantiate

    from lightning_modules import build
    from lightning_modules.command_line import compose_run

    cfg = compose_run(choice)
    data = build.build_data(cfg)
    build.fill_from_data(cfg, data)
    model = build.build_model(cfg)
    optimizer = instantiate(cfg.optimizer)(model.parameters())
    loss_of, x, y = torch.nn.CrossEntropyLoss(), data.arrays.x, data.arrays.y
    train, val = data.splits["train"], data.splits["val"]
    for epoch in range(EPOCHS):
        if epoch == WARM_UP:
            start = time.process_time()
        order = train[torch.from_numpy(np.random.RandomState([cfg.seed, epoch]).permutation(len(train)))]
        model.train()
        for index in order.split(cfg.data.batch_size):
            loss = loss_of(model(x.index_select(0, index)), y.index_select(0, index))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            logits = torch.cat([model(part) for part in x[val].split(512)])
            _ = loss_of(logits, y[val]).item(), (logits.argmax(-1) == y[val]).float().mean().item()
    MEASURED["plain weights"] = model.state_dict()
    return (time.process_time() - start) / (EPOCHS - WARM_UP)


def our_epochs(choice: Sequence[str]) -> float:
    """Seconds of one epoch of ``train.py``, with validation, log and checkpoints; the weights must be the plain ones."""
    import torch

    train(choice)
    weights = MEASURED["plain weights"]
    assert all(torch.equal(weights[key], value) for key, value in MEASURED["weights"].items()), "weights differ"
    return MEASURED["cpu"] / (EPOCHS - WARM_UP)


def train(choice: Sequence[str]) -> None:
    """Run what ``train.py`` runs, timed by `clock`, recorded in the store of this benchmark."""
    from lightning_modules.command_line import compose_run
    from lightning_modules.run import run

    with Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null):
        run(compose_run([*choice, "+callbacks.clock._target_=__main__.clock"]))


def clock() -> Any:
    """A callback that times training from the start of an epoch to the end of the last, its points stored."""
    from pytorch_lightning import Callback, LightningModule, Trainer

    class Clock(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == MEASURED.get("from_epoch", WARM_UP):
                MEASURED["start"] = time.process_time(), time.perf_counter()

        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.logger is not None:
                trainer.logger.finalize("success")
            cpu, wall = MEASURED["start"]
            MEASURED.update(cpu=time.process_time() - cpu, wall=time.perf_counter() - wall)
            model: Any = pl_module.model
            MEASURED["weights"] = {key: value.clone() for key, value in model.state_dict().items()}

    return Clock()


# --- logging ---------------------------------------------------------------------------------------------------
def logging(repeats: int) -> None:
    """Three metrics in each of 1,000 steps against the same loop without a logger."""
    quiet = [f"~callbacks.{name}" for name in ("best", "last", "learning_rate", "progress", "summary")]
    common = [*quiet, "tracking.system_metrics_s=null", "+callbacks.three._target_=__main__.three_metrics"]
    off = [*quiet, "tracking=none", "+callbacks.three._target_=__main__.three_metrics"]
    stop = [f"trainer.max_steps={STEPS}", "trainer.max_epochs=1000", "data.batch_size=64"]
    rows = []
    for name, model in {
        "digits, convnet": ["data=digits", "model=convnet"], "MNIST-1D, linear": ["data=mnist1d", "model=linear"],
    }.items():  # fmt: skip
        times = interleaved(
            {
                "off": functools.partial(logged, [*model, *stop, *off]),
                "on": functools.partial(logged, [*model, *stop, *common]),
            },
            repeats,
        )
        for i, unit in enumerate(("CPU", "wall")):
            on, none = ([seconds[i] for seconds in times[key]] for key in ("on", "off"))
            cost = statistics.median([a - b for a, b in zip(on, none, strict=True)])
            point = (
                f"{statistics.median(none) / STEPS * 1e3:.2f} ms a step, {cost / STEPS / PER_STEP * 1e6:.0f} µs a point"
            )
            rows.append(Row(f"{name}, {unit}", quotients(on, none), 1.05, note=point))
    table(
        f"logging ({PER_STEP} metrics in each of {STEPS} steps / no logger; stored in SQLite within the time)",
        rows,
    )


def logged(choice: Sequence[str]) -> tuple[float, float]:
    """CPU and wall seconds of training, the first epoch included."""
    MEASURED["from_epoch"] = 0
    train(choice)
    del MEASURED["from_epoch"]
    return MEASURED["cpu"], MEASURED["wall"]


def three_metrics() -> Any:
    """A callback that logs three metrics after each step: so the loop is the ordinary one, step by step."""
    from pytorch_lightning import Callback, LightningModule, Trainer

    class ThreeMetrics(Callback):
        def on_train_batch_end(
            self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            lr, loss = trainer.optimizers[0].param_groups[0]["lr"], outputs["loss"]
            values = {"step/loss": loss, "step/lr": lr, "step/samples": float(len(batch["y"]))}
            if trainer.logger is not None:
                trainer.logger.log_metrics(values, trainer.global_step)

    return ThreeMetrics()


# --- data ------------------------------------------------------------------------------------------------------
def data(repeats: int) -> None:
    """Crop, flip and normalise 32x32x3 uint8 images: the datamodule and the task's modules against one by one."""
    import torch

    count = 5120
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    y = torch.randint(0, 10, (count,), generator=generator)
    batches, one_by_one = in_batches(x, y), sample_by_sample(x, y)
    paths = {"ours": lambda: paced(batches, 8), "torchvision": lambda: paced(one_by_one, 1)}
    times = interleaved(paths, repeats)
    note = f"{statistics.median(1 / t[1] for t in times['ours']):,.0f} samples/s"
    rows = []
    for i, unit in enumerate(("CPU", "wall")):
        ours, theirs = ([seconds[i] for seconds in times[name]] for name in ("ours", "torchvision"))
        rows.append(Row(f"samples a second, {unit}", quotients(theirs, ours), 20, above=True, note=note))
    table(
        "data (3x32x32 uint8, batch 256, crop + flip + normalise / torchvision v2 per sample, no workers)",
        rows,
    )


def paced(epoch: Callable[[], Iterator[Any]], epochs: int) -> tuple[float, float]:
    """CPU and wall seconds a sample over so many epochs."""
    cpu, wall = time.process_time(), time.perf_counter()
    count = sum(len(x) for _ in range(epochs) for x in epoch())
    return (time.process_time() - cpu) / count, (time.perf_counter() - wall) / count


def in_batches(x: Any, y: Any) -> Callable[[], Iterator[Any]]:
    """The training batches of our datamodule, augmented and preprocessed as the task does it."""
    import torch

    from lightning_modules.augmentation.crop_flip import CropFlip
    from lightning_modules.data.cifar import CIFAR10
    from lightning_modules.data.memory import Arrays
    from lightning_modules.task.draws import mix

    class Images(CIFAR10):
        def load(self) -> Arrays:
            return Arrays(x, y)

    images = Images(batch_size=256, val_fraction=0.0, test_fraction=0.1)
    images.setup()
    crop_flip, loader, generator = CropFlip(), images.train_dataloader(), torch.Generator()

    def epoch() -> Iterator[Any]:
        for step, batch in enumerate(loader):
            generator.manual_seed(mix(0, step, 0))
            yield images.preprocess(crop_flip(batch, generator)["x"])

    return epoch


def sample_by_sample(x: Any, y: Any) -> Callable[[], Iterator[Any]]:
    """torchvision's transforms of one sample in a DataLoader without workers."""
    import torch
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms import v2

    mean, std = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
    crop_flip = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()]
    transform = v2.Compose([*crop_flip, v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])

    class Samples(Dataset[Any]):
        def __len__(self) -> int:
            return len(x)

        def __getitem__(self, i: int) -> Any:
            return transform(x[i]), y[i]

    loader = DataLoader(Samples(), batch_size=256, shuffle=True)
    return lambda: (batch for batch, _ in loader)


# --- measuring -------------------------------------------------------------------------------------------------
def interleaved(measures: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[Any]]:
    """Call all in turn, `repeats` times after one turn that does not count; return what each gave."""
    for measure in measures.values():
        measure()
    turns = [{name: measure() for name, measure in measures.items()} for _ in range(repeats)]
    return {name: [turn[name] for turn in turns] for name in measures}


def quotients(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """The ratio of each turn."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def processor() -> str:
    """The name of the CPU, where the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["overhead", "data", "logging", "startup", "all"])
    parser.add_argument("--repeats", type=int, default=5, help="turns that count (default 5)")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error("--repeats must be at least 1")
    os.environ.update(OMP_NUM_THREADS="1", MLFLOW_DISABLE_TELEMETRY="true", FORCE_COLOR="1")  # the bar is drawn
    packages = ("torch", "pytorch-lightning", "hydra-core", "mlflow", "torchvision", "torchmetrics")
    print(f"{date.today()}, {processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, one thread; "
          f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in packages))  # fmt: skip
    known = {"startup": startup, "data": data, "overhead": overhead, "logging": logging}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        for name in known if arguments.what == "all" else [arguments.what]:
            known[name](arguments.repeats)


if __name__ == "__main__":
    main()
