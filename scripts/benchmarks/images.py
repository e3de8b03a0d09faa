"""How fast images are augmented, transform by transform, against three other libraries."""

import importlib
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from benchmarks.image_rivals import Rivals, rivals
from benchmarks.measure import interleaved, quotients

BATCH, SINGLE = 256, 96  # images in a turn: of what takes batches, and of what takes one by one
OTHERS = ("torchvision", "albumentations", "kornia")


def run(repeats: int) -> None:
    """Print a table for images of three channels and one for one channel."""
    import torch

    if missing := [package for package in ("albumentations", "kornia") if not find_spec(package)]:
        print(f"\nnot installed, so not measured: pip install {' '.join(missing)}")
    torch.set_num_threads(1)
    if find_spec("cv2"):  # albumentations computes with it
        importlib.import_module("cv2").setNumThreads(0)
    for shape in ((3, 32, 32), (1, 28, 28)):
        print(
            f"\n### transforms of images, {'x'.join(map(str, shape))} uint8, batch {BATCH}, CPU time: how many times as "
            "fast as torchvision v2 and albumentations one by one and kornia on the batch (its policies draw once for all), "
            "without loading\n\n"
            "| transform | n | samples/s | torchvision | bar | | albumentations | kornia |\n"
            "|---|---|---|---|---|---|---|---|"
        )
        for name, them in rivals(shape).items():
            print(_row(name, them, shape, repeats), flush=True)


def _row(name: str, them: Rivals, shape: tuple[int, int, int], repeats: int) -> str:
    seconds = interleaved(_measures(them, shape), repeats)
    ours = seconds["ours"]
    ratios = {other: quotients(seconds[other], ours) for other in OTHERS if other in seconds}
    shown = [f"{1 / statistics.median(ours):,.0f}", _spread(ratios.get("torchvision"))]
    met = "–"
    if them.bar is not None:
        met = "met" if statistics.median(ratios["torchvision"]) >= them.bar else "NOT MET"
    bar = "–" if them.bar is None else f"≥ {them.bar:g}"
    rest = [_spread(ratios.get(other)) for other in OTHERS[1:]]
    return f"| {name} | {repeats} | {' | '.join([*shown, bar, met, *rest])} |"


def _spread(ratios: Sequence[float] | None) -> str:
    """``median (lowest–highest)``."""
    return f"{statistics.median(ratios):.1f} ({min(ratios):.1f}–{max(ratios):.1f})" if ratios else "–"


def _measures(them: Rivals, shape: tuple[int, int, int]) -> dict[str, Callable[[], float]]:
    """For each library that has the transform: a function that gives CPU seconds a sample."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (BATCH, *shape), dtype=torch.uint8, generator=generator)
    batch = {"x": x, "y": torch.arange(BATCH) % 10, "index": torch.arange(BATCH)}
    pictures = [image.permute(1, 2, 0).contiguous().numpy() for image in x[:SINGLE]]
    measures = {"ours": lambda: _timed(lambda: [them.ours(batch, generator) for _ in range(4)], 4 * BATCH)}
    if them.torchvision is not None:
        one_by_one = list(x[:SINGLE])
        measures["torchvision"] = lambda: _timed(lambda: [them.torchvision(image) for image in one_by_one], SINGLE)
    if them.albumentations is not None:
        measures["albumentations"] = lambda: _timed(
            lambda: [them.albumentations(image=picture) for picture in pictures], SINGLE
        )
    if them.kornia is not None:
        measures["kornia"] = lambda: _timed(lambda: them.kornia(x.float() / 255), BATCH)
    return measures


def _timed(work: Callable[[], Any], count: int) -> float:
    start = time.process_time()
    work()
    return (time.process_time() - start) / count
