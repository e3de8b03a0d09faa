"""Warped images equal torchvision's of each image with the same parameters."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from lightning_modules.augmentation.image.affine import Affine, affine_matrix, invert_affine, warp
from lightning_modules.augmentation.image.crop_flip import HorizontalFlip, RandomResizedCrop, VerticalFlip, resized_crop
from lightning_modules.config.errors import UserError

N = 30


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(channels: int = 3, height: int = 13, width: int = 18, dtype: torch.dtype = torch.uint8) -> Tensor:
    x = torch.randint(0, 256, (N, channels, height, width), dtype=torch.uint8, generator=seeded(5))
    return x if dtype == torch.uint8 else (x / 255).to(dtype)


def spread(low: float, high: float, seed: int) -> Tensor:
    return torch.rand(N, generator=seeded(seed)) * (high - low) + low


@pytest.mark.parametrize("fill", [0, 40])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(3, 13, 18), (1, 8, 8)])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_a_warp_equals_torchvisions_affine_of_each_image(
    interpolation: str, shape: tuple[int, int, int], dtype: torch.dtype, fill: float
) -> None:
    x = noise(*shape, dtype=dtype)
    angle, scale, shear_x, shear_y = spread(-180, 180, 1), spread(0.5, 1.5, 2), spread(-40, 40, 3), spread(-40, 40, 4)
    shift = torch.stack((spread(-5, 5, 6), spread(-5, 5, 7)), dim=1)
    fill = fill if dtype == torch.uint8 else fill / 255
    ours = warp(x, invert_affine(affine_matrix(angle, scale, shear_x, shear_y), shift), interpolation, fill)
    for i in range(N):
        where = (float(angle[i]), shift[i].tolist(), float(scale[i]), [float(shear_x[i]), float(shear_y[i])])
        theirs = affine_of_one(x[i], where, interpolation, fill)
        off = (theirs - ours[i].double()).abs() * (1 if dtype == torch.uint8 else 255)
        if interpolation == "bilinear":
            assert off.max() <= 1
        else:
            assert (off > 0.001).float().mean() < 0.01, "but for pixels on the edge between two"


def affine_of_one(x: Tensor, where: tuple[Any, ...], interpolation: str, fill: float) -> Tensor:
    """torchvision's, with the fill blended by what is outside: at the border torchvision weights the image twice."""
    mode = InterpolationMode(interpolation)
    inside = reference.affine(torch.ones_like(x, dtype=torch.float64), *where, mode)
    return reference.affine(x.double(), *where, mode) + (1 - inside) * fill


def test_nothing_drawn_is_nothing_changed_and_whole_shifts_are_exact() -> None:
    x = noise()
    assert torch.equal(Affine()({"x": x}, seeded())["x"], x)
    zero = torch.zeros(N)
    shift = torch.tensor([3.0, -2.0]).expand(N, 2)
    moved = warp(x, invert_affine(affine_matrix(zero, zero + 1, zero, zero), shift), "bilinear", 9)
    assert torch.equal(moved[:, :, :-2, 3:], x[:, :, 2:, :-3])
    assert (moved[:, :, -2:] == 9).all()


def test_a_quarter_turn_is_exact_for_squares() -> None:
    x = noise(height=12, width=12)
    zero = torch.zeros(N)
    turned = warp(x, invert_affine(affine_matrix(zero + 90, zero + 1, zero, zero), torch.zeros(N, 2)), "nearest")
    assert torch.equal(turned, x.rot90(-1, (2, 3)))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"translate": (0.25, 0.0)}, (0, 10)),
        ({"translate": (0.0, 0.25)}, (10, 0)),
    ],
)
def test_translations_are_uniform_up_to_their_share_in_their_direction(
    settings: dict[str, tuple[float, float]], expected: tuple[int, int]
) -> None:
    x = torch.zeros(4000, 1, 41, 41)
    x[:, :, 20, 20] = 1
    out = Affine(**settings)({"x": x}, seeded())["x"][:, 0]
    places = torch.arange(41.0) - 20
    for axis, most in ((1, expected[0]), (2, expected[1])):
        centre = (out.sum(3 - axis) * places).sum(1)
        limit = most * 1.025
        assert centre.abs().max() <= limit + 1e-3
        assert abs(float(centre.mean())) < 0.3
        assert abs(float(centre.std()) - limit / 3**0.5) < 0.2


def test_scale_and_rotation_keep_to_their_ranges() -> None:
    x = torch.zeros(500, 1, 41, 41)
    x[:, :, 11:30, 11:30] = 1
    area = Affine(scale=(0.5, 1.5))({"x": x}, seeded())["x"].sum((1, 2, 3)).div(19 * 19).sqrt()
    assert 0.45 < area.min() < 0.55, "to a pixel"
    assert 1.45 < area.max() < 1.55
    bar = torch.zeros(500, 1, 41, 41)
    bar[:, :, 20, 20:38] = 1  # to the right: turned by at most 30 degrees it stays within the cone
    out = Affine(degrees=30)({"x": bar}, seeded())["x"][:, 0]
    down = (out.sum(2) * (torch.arange(41.0) - 20)).sum(1) / out.sum((1, 2))
    across = (out.sum(1) * (torch.arange(41.0) - 20)).sum(1) / out.sum((1, 2))
    angle = torch.rad2deg(torch.atan2(down, across))
    assert 29 < angle.max() < 31
    assert -31 < angle.min() < -29


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_a_resized_crop_equals_torchvisions_of_each_image(interpolation: str, dtype: torch.dtype) -> None:
    x = noise(dtype=dtype)
    tall, wide = torch.randint(1, 14, (N,), generator=seeded(1)), torch.randint(1, 19, (N,), generator=seeded(2))
    top, left = ((torch.rand(N, generator=seeded(3)) * (room + 1)).long() for room in (13 - tall, 18 - wide))
    ours = resized_crop(x, top, left, tall, wide, interpolation)
    for i in range(N):
        place = (int(top[i]), int(left[i]), int(tall[i]), int(wide[i]))
        theirs = reference.resized_crop(x[i], *place, [13, 18], InterpolationMode(interpolation))
        off = (theirs.double() - ours[i].double()).abs() * (1 if dtype == torch.uint8 else 255)
        assert off.max() <= 1.001 if interpolation == "bilinear" else (off > 0).float().mean() < 0.01


def test_the_crops_area_and_place_keep_to_their_ranges() -> None:
    ramp = torch.arange(40.0).div(40)
    x = torch.stack((ramp.expand(40, 40), ramp[:, None].expand(40, 40))).expand(3000, -1, -1, -1)
    out = RandomResizedCrop(scale=(0.25, 0.5), ratio=(1, 1))({"x": x}, seeded())["x"]
    width = (out[:, 0, 20].amax(1) - out[:, 0, 20].amin(1)) * 40 + 1
    height = (out[:, 1, :, 20].amax(1) - out[:, 1, :, 20].amin(1)) * 40 + 1
    assert torch.allclose(width, height, atol=1e-2)
    assert width.min() > 19.9
    assert width.max() < 28.6
    left = out[:, 0, 20].amin(1) * 40
    assert left.min() < 0.1
    assert left.max() > 19
    assert abs(float(torch.corrcoef(torch.stack((left, out[:, 1, :, 20].amin(1))))[0, 1])) < 0.35, "both shrink by size"


def test_where_no_part_fits_the_centre_is_taken() -> None:
    x = noise(height=4, width=18)
    out = RandomResizedCrop(scale=(0.9, 1.0), ratio=(1, 1))({"x": x}, seeded())["x"]
    centre = torch.stack([reference.resized_crop(image, 0, 7, 4, 4, [4, 18]) for image in x])
    assert (out.int() - centre.int()).abs().max() <= 1


def test_flips_mirror_what_they_say_with_their_probability() -> None:
    x = torch.arange(20, dtype=torch.uint8).view(1, 1, 4, 5).expand(4000, -1, -1, -1)
    for transform, dim in ((HorizontalFlip(0.3), 3), (VerticalFlip(0.3), 2)):
        out = transform({"x": x}, seeded())["x"]
        mirrored = (out == x.flip(dim)).flatten(1).all(1)
        assert ((out == x).flatten(1).all(1) | mirrored).all()
        assert abs(float(mirrored.float().mean()) - 0.3) < 0.03
        pairs = torch.stack((mirrored[:-1], mirrored[1:])).float()
        assert abs(float(torch.corrcoef(pairs)[0, 1])) < 0.05


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Affine(degrees=-5), r"Affine\.degrees"),
        (lambda: Affine(translate=1.5), r"Affine\.translate=1.5: expected a value in \[0, 1\]"),
        (lambda: Affine(scale=(1.2, 0.8)), r"Affine\.scale=\[1\.2, 0\.8\] must be two ascending"),
        (lambda: Affine(shear=(0, 90)), r"Affine\.shear"),
        (lambda: Affine(interpolation="bilinaer"), r"interpolation=bilinaer: did you mean 'bilinear'"),
        (lambda: RandomResizedCrop(scale=(0.5, 1.1)), r"RandomResizedCrop\.scale"),
        (lambda: RandomResizedCrop(ratio=(2, 1)), r"RandomResizedCrop\.ratio"),
        (lambda: RandomResizedCrop(interpolation="cubic"), "choose one of: bilinear, nearest"),
    ],
)
def test_senseless_settings_are_refused(build: type, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()


def test_a_fill_for_another_number_of_channels_is_refused() -> None:
    with pytest.raises(UserError, match=r"fill=\[1\.0, 2\.0, 3\.0\] has 3 values, but the images have 1"):
        Affine(10, fill=[1, 2, 3])({"x": noise(channels=1)}, seeded())
