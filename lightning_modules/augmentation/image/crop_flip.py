"""Random crops and flips."""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from lightning_modules.augmentation.image.image_transform import ImageTransform, match_memory_format, require_images
from lightning_modules.augmentation.per_sample import to_device_of
from lightning_modules.config.bounds import Fraction, bounded


class HorizontalFlip(ImageTransform):
    """Flips left and right; combined with a crop, `CropFlip` is faster.

    Args:
        probability: of transforming an image.
    """

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__(probability)

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x.flip(3)


class VerticalFlip(ImageTransform):
    """Flips top and bottom.

    Args:
        probability: of transforming an image.
    """

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__(probability)

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x.flip(2)


class CropFlip(nn.Module):
    """Pads each image, crops a window of the original size at random, and flips it with a probability.

    The usual augmentation of small images (He et al. 2016, section 4.2: 4 pixels on 32x32). Random numbers come from
    the CPU, so that CPU and GPU give the same result.

    Args:
        padding: pixels added on each side; the window moves by up to that many in each direction.
        flip_probability: probability of a horizontal flip.
        fill: raw value of the added pixels.
    """

    @bounded
    def __init__(self, padding: Annotated[int, Ge(0)] = 4, flip_probability: Fraction = 0.5, fill: float = 0) -> None:
        super().__init__()
        self.padding = padding
        self.flip_probability = flip_probability
        self.fill = fill

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Augment ``batch["x"]``, uint8 or float [B, C, H, W]; the rest of the batch is unchanged.

        Raises UserError if the samples are not images.
        """
        x = batch["x"]
        require_images(self, x)
        moves = torch.randint(2 * self.padding + 1, (2, len(x)), generator=generator)
        flips = torch.rand(len(x), generator=generator) < self.flip_probability
        return {**batch, "x": match_memory_format(x, crop_flip(x, moves[0], moves[1], flips, self.padding, self.fill))}


def crop_flip(x: Tensor, top: Tensor, left: Tensor, flip: Tensor, padding: int, fill: float = 0) -> Tensor:
    """Crop ``[H, W]`` at (`top`, `left`) of the padded images x [B, C, H, W], then flip those with `flip`.

    `top`, `left` (0..2*padding) and `flip` (bool) are [B], on the CPU. All padded (and flipped) images are in one
    buffer in which every output row is W consecutive values: copying rows is several times faster than gathering
    pixels. A window of a flipped image starts at ``2*padding - left``.
    """
    count, channels, height, width = x.shape
    order = flip.long().argsort(stable=True)  # images to flip come last, so that one copy flips them all
    straight = count - int(flip.sum())
    sorted_x = x.index_select(0, to_device_of(x, order))
    tall, wide = height + 2 * padding, width + 2 * padding
    buffer = x.new_full((count, channels, tall, wide), fill)
    inner = buffer[..., padding : padding + height, padding : padding + width]
    inner[:straight] = sorted_x[:straight]
    inner[straight:] = sorted_x[straight:].flip(3)
    left = torch.where(flip, 2 * padding - left, left)
    starts = (order.argsort() * channels * tall + top) * wide + left
    rows = (torch.arange(channels, device=x.device)[:, None] * tall + torch.arange(height, device=x.device)) * wide
    starts = to_device_of(x, starts)[:, None, None] + rows
    return buffer.flatten().unfold(0, width, 1).index_select(0, starts.flatten()).view(x.shape)
