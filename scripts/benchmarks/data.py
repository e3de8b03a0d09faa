"""How fast images are cropped, flipped and normalised, what share that is of a step, and all other transforms."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import images
from benchmarks.measure import Row, interleaved, quotients, table


def run(repeats: int) -> None:
    """Print the tables: the whole path, its share of training, and each transform of images."""
    path(repeats)
    share(repeats)
    images.run(repeats)


def share(repeats: int) -> None:
    """Gather, crop, flip and normalise a batch of CIFAR's shape, and train a ResNet-20 on it."""
    import torch
    from torch.nn import functional as F

    from lightning_modules.config.command_line import compose_run
    from lightning_modules.run.build import build_model

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (1280, 3, 32, 32), dtype=torch.uint8, generator=generator)
    y = torch.randint(0, 10, (1280,), generator=generator)
    batches = in_batches(x, y, batch_size=128)
    cfg = compose_run(["model=resnet20"])
    cfg.model.update(input_shape=[3, 32, 32], num_outputs=10)
    model = build_model(cfg)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    given = x[:128].float() / 255

    def step() -> float:
        start = time.process_time()
        optimizer.zero_grad()
        F.cross_entropy(model(given), y[:128]).backward()
        optimizer.step()
        return (time.process_time() - start) / 128

    times = interleaved({"input": lambda: paced(batches, 4)[0], "step": step}, repeats)
    ratios = [100 * a / (a + b) for a, b in zip(times["input"], times["step"], strict=True)]
    note = f"{1000 * 128 * statistics.median(times['step']):.0f} ms a step"
    rows = [Row("gather + image_basic + normalise / all of the step, %", ratios, 15, note=note)]
    table("the input's share of training (ResNet-20, 3x32x32, batch 128, CPU time)", rows)


def path(repeats: int) -> None:
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


def in_batches(x: Any, y: Any, batch_size: int = 256) -> Callable[[], Iterator[Any]]:
    """The training batches of our datamodule, augmented and preprocessed as the task does it."""
    import torch

    from lightning_modules.augmentation.image.crop_flip import CropFlip
    from lightning_modules.data.in_memory import RawDataset
    from lightning_modules.task.rng import derive_seed
    from lightning_modules.zoo.data.image_datasets import CIFAR10

    class Images(CIFAR10):
        def load(self) -> RawDataset:
            return RawDataset(x, y)

    images = Images(batch_size=batch_size, val_fraction=0.0, test_fraction=0.1)
    images.setup()
    crop_flip, loader, generator = CropFlip(), images.train_dataloader(), torch.Generator()

    def epoch() -> Iterator[Any]:
        for step, batch in enumerate(loader):
            generator.manual_seed(derive_seed(0, step, 0))
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
