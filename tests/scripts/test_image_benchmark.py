"""What the benchmark of image transforms sets side by side does run, with and without the optional libraries."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    module = importlib.import_module("benchmarks.images")
    monkeypatch.setattr(importlib.import_module("benchmarks.image_rivals"), "find_spec", lambda package: None)
    monkeypatch.setattr(module, "find_spec", lambda package: None)
    monkeypatch.setattr(module, "BATCH", 6)
    monkeypatch.setattr(module, "SINGLE", 2)
    return module


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28)])
def test_each_pair_of_transforms_takes_the_images_of_the_benchmark(images: Any, shape: tuple[int, int, int]) -> None:
    x = torch.randint(0, 256, (6, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for name, them in images.rivals(shape).items():
        batch = {"x": x, "y": torch.arange(6), "index": torch.arange(6)}
        assert them.ours(batch, torch.Generator())["x"].shape == x.shape, name
        assert them.torchvision is None or them.torchvision(x[0]).shape == shape, name
        assert (them.albumentations, them.kornia) == (None, None)


def test_a_library_that_is_missing_is_named_with_its_install_command(
    images: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(images, "rivals", lambda shape: {"flip": images.Rivals(lambda batch, generator: None, abs)})
    images.run(1)
    told = capsys.readouterr().out
    assert "pip install albumentations kornia" in told
    assert told.count("| flip | 1 |") == 2
