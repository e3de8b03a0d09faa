"""Images and their masks are moved alike, pixel for pixel as torchvision's kernels move them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from lightning_modules.augmentation.image import masks
from lightning_modules.augmentation.image.crop_flip import CropFlip, HorizontalFlip, RandomResizedCrop, VerticalFlip
from lightning_modules.augmentation.image.masks import IGNORED, Elastic, RandomCrop, Rotate90, WithMasks, require_masks
from lightning_modules.augmentation.image.photometric import ColorJitter
from lightning_modules.config.errors import UserError
from lightning_modules.data.compose import Compose

Kernel = Callable[[Any], Any]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def turns() -> list[int]:
    """What Rotate90 draws for eight images, after whether each is changed."""
    generator = seeded()
    torch.rand(8, generator=generator)
    return torch.randint(4, (8,), generator=generator).tolist()


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Eight images of noise with masks of three classes."""
    x = torch.randint(256, (8, 3, 12, 12), generator=seeded(1)).to(torch.uint8)
    return {"x": x, "y": torch.randint(3, (8, 12, 12), generator=seeded(2)).to(torch.uint8)}


@pytest.mark.parametrize(
    ("transform", "kernel"),
    [
        (HorizontalFlip(1.0), lambda i: tv.horizontal_flip),
        (VerticalFlip(1.0), lambda i: tv.vertical_flip),
        (Rotate90(), lambda i: lambda t: tv.rotate(t, 90.0 * turns()[i])),
    ],
)
def test_flips_and_turns_are_those_of_torchvision(
    batch: dict[str, Tensor], transform: nn.Module, kernel: Callable[[int], Kernel]
) -> None:
    moved = WithMasks([transform])(batch, seeded())
    for i, (x, y) in enumerate(zip(batch["x"], batch["y"], strict=True)):
        assert torch.equal(moved["x"][i], kernel(i)(tv_tensors.Image(x)))
        assert torch.equal(moved["y"][i], kernel(i)(tv_tensors.Mask(y)))


def test_crops_are_those_of_torchvision(batch: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    places = [torch.arange(8) % 5, torch.arange(8) % 3] * 2  # of images, then of masks
    monkeypatch.setattr(masks, "draw_places", lambda room, generator: places.pop(0))
    moved = WithMasks([RandomCrop([7, 9])])(batch, seeded())
    for i, (x, y) in enumerate(zip(batch["x"], batch["y"], strict=True)):
        assert torch.equal(moved["x"][i], tv.crop(tv_tensors.Image(x), i % 5, i % 3, 7, 9))
        assert torch.equal(moved["y"][i], tv.crop(tv_tensors.Mask(y), i % 5, i % 3, 7, 9))


@pytest.mark.parametrize(
    ("interpolation", "kind", "fill"), [("bilinear", tv_tensors.Image, 0), ("nearest", tv_tensors.Mask, 7)]
)
def test_deformations_are_those_of_torchvision(
    batch: dict[str, Tensor], interpolation: Any, kind: Callable[[Tensor], Tensor], fill: int
) -> None:
    field = torch.randn(8, 2, 12, 12, generator=seeded(3)) * 2
    moved = masks.displace(batch["x"], field, interpolation, fill)
    for i, x in enumerate(batch["x"]):
        displacement = field[i].permute(1, 2, 0)[None] * 2 / 12
        assert torch.equal(
            moved[i], tv.elastic(kind(x), displacement, InterpolationMode(interpolation), fill=fill or None)
        )


def test_an_elastic_field_is_smooth_and_as_large_as_its_deviation() -> None:
    place = torch.arange(33.0).expand(500, 1, 33, 33) / 33
    moved = (Elastic(std=2.0)({"x": place}, seeded())["x"] - place)[:, 0] * 33
    assert moved[:, 16, 16].std() == pytest.approx(2.0, rel=0.1)  # the grid's middle point
    assert moved[:, 8:-8, 8:-8].diff(dim=2).abs().mean() < 0.3


@pytest.mark.parametrize(
    "transforms",
    [
        [HorizontalFlip(0.5), VerticalFlip(0.5), Rotate90(), RandomCrop(8)],
        [CropFlip(3, fill=IGNORED)],
        [RandomResizedCrop(interpolation="nearest", probability=0.5)],
        [Elastic(std=3.0, interpolation="nearest", fill=IGNORED)],
    ],
)
def test_image_and_mask_see_the_same_draws_which_differ_between_samples(
    batch: dict[str, Tensor], transforms: list[nn.Module]
) -> None:
    x = batch["y"][:1, None].expand(8, -1, -1, -1).contiguous()
    moved = WithMasks(transforms)({"x": x, "y": x[:, 0], "index": torch.arange(8)}, seeded())
    assert torch.equal(moved["x"][:, 0], moved["y"]) and torch.equal(moved["index"], torch.arange(8))
    assert len({tuple(mask.flatten().tolist()) for mask in moved["y"]}) > 3


def test_masks_keep_their_classes_and_what_comes_from_outside_is_ignored(batch: dict[str, Tensor]) -> None:
    moved = WithMasks([CropFlip(4), Elastic(std=4.0, fill=0)])(batch, seeded())
    assert set(moved["y"].unique().tolist()) == {0, 1, 2, IGNORED}
    assert set(WithMasks([Elastic(std=4.0)])(batch, seeded())["y"].unique().tolist()) == {0, 1, 2}


def test_images_that_are_not_square_turn_by_half_a_circle(batch: dict[str, Tensor]) -> None:
    x = batch["x"][:, :, :6]
    turned = Rotate90()({"x": x}, seeded())["x"]
    assert {i for i in range(8) if torch.equal(turned[i], x[i])} | {
        i for i in range(8) if torch.equal(turned[i], x[i].rot90(2, (1, 2)))
    } == set(range(8)) and not torch.equal(turned, x)


def test_what_would_leave_the_masks_behind_is_refused(batch: dict[str, Tensor]) -> None:
    require_masks(Compose([WithMasks([HorizontalFlip()]), ColorJitter(brightness=0.2)]))
    with pytest.raises(
        UserError, match="HorizontalFlip would not change the masks with their images; put it into WithMasks"
    ):
        require_masks(Compose([ColorJitter(brightness=0.2), HorizontalFlip()]))
    with pytest.raises(UserError, match="ColorJitter does not move pixels: put it beside WithMasks"):
        WithMasks([ColorJitter(brightness=0.2)])
    with pytest.raises(UserError, match=r"RandomCrop\.size=\[20, 20\] is more than the images have: \[12, 12\]"):
        WithMasks([RandomCrop(20)])(batch, seeded())
