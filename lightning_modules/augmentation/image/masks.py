"""Image transforms that move pixels, applied to images together with their masks, and those that need no masks."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.augmentation.image.affine import Affine, sample_grid
from lightning_modules.augmentation.image.crop_flip import (
    CropFlip,
    HorizontalFlip,
    RandomResizedCrop,
    VerticalFlip,
    draw_places,
)
from lightning_modules.augmentation.image.image_transform import Fill, ImageTransform, Interpolation
from lightning_modules.augmentation.image.photometric import ColorJitter, GaussianBlur, GaussianNoise, Grayscale
from lightning_modules.config.bounds import Count, NonNegative, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.data.compose import Compose

IGNORED = 255  # in a mask: a pixel that is neither trained on nor counted


class Rotate90(ImageTransform):
    """Rotates each image by a multiple of 90 degrees; images that are not square by 0 or 180."""

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        step = 1 if x.shape[2] == x.shape[3] else 2
        turns = torch.randint(4 // step, (len(x),), generator=generator) * step
        return torch.stack([image.rot90(int(k), (1, 2)) for image, k in zip(x, turns, strict=True)])


class RandomCrop(ImageTransform):
    """Crops a window of `size` (a side, or height and width) at random; the result has this size."""

    @bounded
    def __init__(self, size: Count | Sequence[Count]) -> None:
        super().__init__()
        self.height, self.width = (size, size) if isinstance(size, int) else size

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        spare = x.shape[2] - self.height, x.shape[3] - self.width
        if min(spare) < 0:
            raise UserError(
                f"augmentation: RandomCrop.size={[self.height, self.width]} is more than the images have: {list(x.shape[2:])}"
            )
        tops, lefts = (draw_places(torch.full((len(x),), room), generator).tolist() for room in spare)
        windows = zip(x, tops, lefts, strict=True)
        return torch.stack([image[:, t : t + self.height, k : k + self.width] for image, t, k in windows])


class Elastic(ImageTransform):
    """Moves pixels by a smooth random field: normal displacements of a coarse grid, in between by bicubic interpolation
    (Ronneberger et al. 2015, U-Net, section 3.1).

    Args:
        std: standard deviation of the displacements, in pixels.
        points: of the coarse grid, along each side.
        fill: raw value of pixels from outside of the image, or one per channel; null: the border is replicated.
    """

    @bounded
    def __init__(
        self,
        std: NonNegative = 10.0,
        points: Count = 3,
        interpolation: Interpolation = "bilinear",
        fill: Fill | None = None,
        probability: float = 1.0,
    ) -> None:
        super().__init__(probability)
        self.std, self.points, self.interpolation, self.fill = std, points, interpolation, fill

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        coarse = torch.randn(len(x), 2, self.points, self.points, generator=generator) * self.std
        field = F.interpolate(coarse.to(x.device), x.shape[2:], mode="bicubic", align_corners=True)
        return displace(x, field, self.interpolation, self.fill)


def displace(x: Tensor, field: Tensor, interpolation: Interpolation, fill: Fill | None) -> Tensor:
    """Take each pixel of x [n, C, H, W] from its place plus `field` [n, 2, H, W], pixels in (x, y)."""
    sides = x.shape[3], x.shape[2]
    across, down = (torch.linspace((1 - side) / side, (side - 1) / side, side, device=x.device) for side in sides)
    grid = torch.stack([across.expand(sides[1], -1), down[:, None].expand(-1, sides[0])], -1)
    moved = field.permute(0, 2, 3, 1) * 2 / torch.tensor(sides, device=x.device)
    return sample_grid(x, grid + moved, interpolation, fill)


MOVING = (HorizontalFlip, VerticalFlip, CropFlip, Rotate90, RandomCrop, RandomResizedCrop, Affine, Elastic)


class WithMasks(nn.Module):
    """Applies transforms to ``batch["x"]`` [B, C, H, W] and to the masks ``batch["y"]``, uint8 [B, H, W], alike.

    Both see the same random numbers. In masks no classes are interpolated, and pixels from outside become IGNORED.

    Args:
        transforms: see `Compose`; of those that move pixels (MOVING).
    """

    def __init__(self, transforms: Mapping[str, nn.Module | None] | Sequence[nn.Module | None]) -> None:
        super().__init__()
        self.of_images = Compose(transforms)
        self.of_masks = copy.deepcopy(self.of_images)
        for transform in self.of_masks.transforms:
            if not isinstance(transform, MOVING):
                raise UserError(
                    f"augmentation: {type(transform).__name__} does not move pixels: put it beside WithMasks"
                )
            if hasattr(transform, "interpolation"):
                transform.interpolation = "nearest"
            if getattr(transform, "fill", None) is not None:
                transform.fill = IGNORED

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return a new batch; the given one is not modified."""
        state = generator.get_state()
        x = self.of_images({"x": batch["x"]}, generator)["x"]
        generator.set_state(state)
        y = self.of_masks({"x": batch["y"][:, None]}, generator)["x"][:, 0]
        return {**batch, "x": x, "y": y}


def require_masks(augmentation: nn.Module) -> None:
    """Raise UserError for a transform of ours that would change images and not their masks."""
    for transform in getattr(augmentation, "transforms", [augmentation]):
        ours = type(transform).__module__.startswith("lightning_modules.augmentation.")
        if ours and not isinstance(transform, WithMasks | ColorJitter | Grayscale | GaussianBlur | GaussianNoise):
            raise UserError(
                f"augmentation: {type(transform).__name__} would not change the masks with their images; put it into WithMasks, "
                "or use augmentation=masks_basic"
            )
