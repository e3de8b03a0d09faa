"""Masks of log-mel features."""

from types import SimpleNamespace

import pytest
import torch
from synthetic_audio import generator

from lightning_modules.augmentation.audio.spec_augment import SpecAugment, random_mask
from lightning_modules.zoo.data.log_mel import LogMel


def test_a_mask_is_one_run_of_uniform_width_at_a_uniform_place() -> None:
    mask = random_mask(20_000, 1, 10, 4, generator())
    width = mask.sum(1)
    assert width.bincount().sub(4000).abs().max() < 250
    edges = (mask[:, 1:] != mask[:, :-1]).sum(1) + mask[:, 0].int() + mask[:, -1].int()
    assert set(edges[width > 0].tolist()) == {2}, "one run"
    start = mask.int().argmax(1)[width == 4]
    assert start.bincount(minlength=7).sub(len(start) / 7).abs().max() < 120


def test_masks_of_bands_and_of_frames_are_drawn_independently_and_as_wide_as_said() -> None:
    x = torch.randn(2000, 1, 40, 100, generator=generator(1))
    masked = SpecAugment(bands=8, frames=0.15)({"x": x}, generator())["x"] != x
    rows, columns = masked[:, 0].all(2).sum(1), masked[:, 0].all(1).sum(1)
    assert rows.max() == 8 and columns.max() == 15 and rows.min() == columns.min() == 0
    assert abs(float(torch.corrcoef(torch.stack((rows, columns)).float())[0, 1])) < 0.07
    assert torch.equal(masked.sum((1, 2, 3)), rows * 100 + columns * 40 - rows * columns)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_masked_values_are_the_means_of_the_bands_or_of_the_sample(dtype: torch.dtype) -> None:
    x = torch.arange(6.0).view(1, 1, 3, 2).to(dtype).repeat(50, 1, 1, 1)
    masks = SpecAugment(bands=3, frames=0)
    out = masks({"x": x}, generator())["x"]
    assert out.dtype == dtype and set(out[out != x].tolist()) == {2.5}
    masks.prepare(SimpleNamespace(preprocess=LogMel(8000, 64, 20, 3, mean=[7.0, 8.0, 9.0])))
    out = masks({"x": x}, generator())["x"]
    assert {tuple(row.tolist()) for row in out[out != x].view(-1, 2)} == {(7, 7), (8, 8), (9, 9)}


def test_several_masks_or_none_and_features_of_one_frame() -> None:
    x = torch.randn(300, 1, 30, 1)
    assert SpecAugment(0, 0.0, 0, 0)({"x": x}, generator())["x"].equal(x)
    runs = (SpecAugment(5, 0, frequency_masks=3)({"x": x}, generator())["x"] != x)[:, 0, :, 0].sum(1)
    assert 10 < runs.max() <= 15
