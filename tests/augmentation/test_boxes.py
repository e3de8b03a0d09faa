"""Boxes move with their images: each transform against torchvision's kernels, per sample, and what is left of boxes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from lightning_modules.augmentation.image.boxes import BoxFlip, BoxMosaic, BoxZoom
from lightning_modules.config.errors import UserError

HEIGHT, WIDTH = 48, 64


@pytest.fixture(scope="module")
def batch() -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(0)
    x = torch.randint(256, (6, 3, HEIGHT, WIDTH), generator=source, dtype=torch.uint8)
    corners = torch.rand(6, 4, 2, generator=source) * torch.tensor([WIDTH - 20.0, HEIGHT - 20.0])
    boxes = torch.cat([corners, corners + torch.rand(6, 4, 2, generator=source) * 18 + 2], 2)
    y = torch.cat([boxes, torch.arange(4.0).expand(6, 4)[..., None]], 2)
    y[2], y[0, 3] = -1, -1  # an image without objects, and padding
    return {"x": x, "y": y, "index": torch.arange(6)}


def wrap(y: Tensor) -> Any:
    return tv_tensors.BoundingBoxes(y[y[:, 4] >= 0][:, :4], format="XYXY", canvas_size=(HEIGHT, WIDTH))


def rows(y: Tensor) -> Tensor:
    return y[y[:, 4] >= 0]


def test_a_flip_is_torchvisions(batch: dict[str, Tensor]) -> None:
    flipped = BoxFlip(1.0)(batch, torch.Generator())
    for i in range(6):
        assert torch.equal(flipped["x"][i], v2.horizontal_flip(batch["x"][i]))
        assert torch.allclose(rows(flipped["y"][i])[:, :4], v2.horizontal_flip(wrap(batch["y"][i])).as_subclass(Tensor))
    assert torch.equal(flipped["y"][..., 4], batch["y"][..., 4]) and "index" in flipped


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.6])
def test_a_zoom_is_torchvisions_affine_map_then_clipped(batch: dict[str, Tensor], scale: float) -> None:
    shift = torch.tensor([[5.0, -3.0]]).expand(6, 2)
    x, y = BoxZoom(min_visible=0.0).zoom(batch["x"], batch["y"], torch.full((6,), scale), shift)
    how: dict[str, Any] = {"angle": 0.0, "translate": [5, -3], "scale": scale, "shear": [0.0, 0.0]}
    expected = v2.affine(batch["x"], **how, interpolation=InterpolationMode.BILINEAR, fill=114)
    assert (x.int() - expected.int()).abs().max() <= 1  # rounding of the grid
    assert (x == expected).float().mean() > 0.99
    for i in range(6):
        moved = v2.affine(wrap(batch["y"][i]), **how).as_subclass(Tensor)
        clipped = moved.clamp(min=0).minimum(torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]))
        left = (clipped[:, 2:] - clipped[:, :2]).prod(1) > 0
        assert torch.allclose(rows(y[i])[:, :4], clipped[left], atol=1e-3)
        assert torch.equal(rows(y[i])[:, 4], rows(batch["y"][i])[left, 4])


def test_boxes_of_which_too_little_is_left_are_removed() -> None:
    y = torch.tensor([[[0.0, 0.0, 20.0, 20.0, 1.0], [20.0, 14.0, 40.0, 34.0, 2.0]]])
    x = torch.zeros(1, 3, HEIGHT, WIDTH, dtype=torch.uint8)
    shift = torch.tensor([[-12.0, -12.0]])
    _, strict = BoxZoom(min_visible=0.2).zoom(x, y, torch.ones(1), shift)
    _, lenient = BoxZoom(min_visible=0.1).zoom(x, y, torch.ones(1), shift)
    assert rows(strict[0]).tolist() == [[8, 2, 28, 22, 2]]
    assert rows(lenient[0]).tolist() == [[0, 0, 8, 8, 1], [8, 2, 28, 22, 2]]
    assert bool((strict[0, 0] == -1).all())


def test_a_mosaic_is_four_images_of_half_the_size_as_torchvision_scales_them(batch: dict[str, Tensor]) -> None:
    members = torch.tensor([[0, 1, 3, 4], [5, 5, 2, 2]])
    x, y = BoxMosaic.tile(batch["x"], batch["y"], members)
    corners = [(0, 0), (0, WIDTH // 2), (HEIGHT // 2, 0), (HEIGHT // 2, WIDTH // 2)]
    for k, quarter in enumerate(members.tolist()):
        expected = []
        for member, (top, left) in zip(quarter, corners, strict=True):
            small = v2.resize(batch["x"][member], [HEIGHT // 2, WIDTH // 2], antialias=True)
            part = x[k, :, top : top + HEIGHT // 2, left : left + WIDTH // 2]
            assert (part.int() - small.int()).abs().max() <= 1
            boxes = v2.resize(wrap(batch["y"][member]), [HEIGHT // 2, WIDTH // 2]).as_subclass(Tensor)
            expected.append(boxes + torch.tensor([left, top, left, top]))
        assert torch.allclose(rows(y[k])[:, :4], torch.cat(expected))
    assert y.shape[1] == 15  # no more rows than boxes of the fullest image


@pytest.mark.parametrize("make", [lambda: BoxFlip(0.5), lambda: BoxZoom(probability=0.5), lambda: BoxMosaic(0.5)])
def test_each_sample_has_its_own_draw_and_the_same_seed_gives_the_same(
    make: Callable[[], Any], batch: dict[str, Tensor]
) -> None:
    before = {key: value.clone() for key, value in batch.items()}
    first, again, other = (make()(batch, torch.Generator().manual_seed(seed)) for seed in (0, 0, 5))
    assert torch.equal(first["x"], again["x"]) and torch.equal(first["y"], again["y"])
    assert not torch.equal(first["x"], other["x"])
    changed = (first["x"] != batch["x"]).flatten(1).any(1)
    assert 0 < int(changed.sum()) < 6  # some of them
    kept = ~changed
    assert torch.equal(first["y"][kept, : batch["y"].shape[1]], batch["y"][kept])
    assert all(torch.equal(batch[key], value) for key, value in before.items())


def test_every_zoomed_image_has_its_own_scale_and_place(batch: dict[str, Tensor]) -> None:
    same = {"x": batch["x"][:1].expand(6, -1, -1, -1), "y": batch["y"][:1].expand(6, -1, -1)}
    x = BoxZoom((0.5, 0.9))(same, torch.Generator().manual_seed(0))["x"]
    assert all(not torch.equal(x[i], x[j]) for i in range(6) for j in range(i))


def test_other_targets_are_rejected(batch: dict[str, Tensor]) -> None:
    with pytest.raises(UserError, match=r"BoxFlip needs boxes \[B, M, 5\], but y has shape \(6,\)"):
        BoxFlip(1.0)({"x": batch["x"], "y": torch.zeros(6)}, torch.Generator())
