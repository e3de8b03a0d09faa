"""Random affine transform: rotation, scale, shear and translation by one matrix per image."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.augmentation.image.image_transform import ImageTransform, check_range
from lightning_modules.augmentation.image.warp import affine_matrix, check_interpolation, invert_affine, warp
from lightning_modules.augmentation.per_sample import uniform


class Affine(ImageTransform):
    """Rotates, scales, shears and translates images about their center; each parameter is uniform in its range.

    By default, each of them is off. The same as torchvision's ``RandomAffine``, but translations are not rounded to
    pixels.

    Args:
        degrees: rotation, from -degrees to degrees.
        translate: maximum translation as fractions of (width, height), or one fraction for both.
        scale: (minimum, maximum) factor.
        shear: maximum shear in degrees in (x, y), or in x only.
        interpolation: "bilinear" or "nearest".
        fill: raw value for pixels outside of the image, or one per channel.
        probability: of transforming an image.
    """

    def __init__(
        self,
        degrees: float = 0.0,
        translate: float | Sequence[float] = 0.0,
        scale: Sequence[float] = (1.0, 1.0),
        shear: float | Sequence[float] = 0.0,
        interpolation: str = "bilinear",
        fill: float | Sequence[float] = 0,
        probability: float = 1.0,
    ) -> None:
        super().__init__(probability)
        translate = (translate, translate) if isinstance(translate, int | float) else translate
        shear = (shear, 0.0) if isinstance(shear, int | float) else shear
        check_range("Affine.degrees", 0, degrees, 0)
        for name, (in_x, in_y), most in (("translate", translate, 1.0), ("shear", shear, 89.0)):
            check_range(f"Affine.{name}", 0, in_x, 0, most)
            check_range(f"Affine.{name}", 0, in_y, 0, most)
        check_range("Affine.scale", scale[0], scale[1], 1e-3)
        check_interpolation("Affine", interpolation)
        self.degrees, self.translate, self.scale, self.shear = degrees, translate, scale, shear
        self.interpolation, self.fill = interpolation, fill

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        n, (height, width) = len(x), x.shape[2:]

        def within(limit: float) -> Tensor:
            return uniform(n, -limit, limit, generator)

        angle, scale = within(self.degrees), uniform(n, self.scale[0], self.scale[1], generator)
        matrix = affine_matrix(angle, scale, within(self.shear[0]), within(self.shear[1]))
        shift = torch.stack((within(self.translate[0] * width), within(self.translate[1] * height)), dim=1)
        return warp(x, invert_affine(matrix, shift), self.interpolation, self.fill)
