"""AutoAugment: the policies found on CIFAR-10, SVHN and ImageNet."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.augmentation.image.affine import check_interpolation
from lightning_modules.augmentation.image.image_transform import ImageTransform
from lightning_modules.augmentation.image.policy_operations import AUTO, apply_operations, draw_signs
from lightning_modules.config.errors import UserError, suggest

# Cubuk et al. 2019, tables 7 to 9: 25 pairs of (operation, probability in tenths, level 0..9; 0 if it has none)
POLICIES = {
    "cifar10": """
invert 1 0, contrast 2 6
rotate 7 2, translate_x 3 9
sharpness 8 1, sharpness 9 3
shear_y 5 8, translate_y 7 9
autocontrast 5 0, equalize 9 0
shear_y 2 7, posterize 3 7
color 4 3, brightness 6 7
sharpness 3 9, brightness 7 9
equalize 6 0, equalize 5 0
contrast 6 7, sharpness 6 5
color 7 7, translate_x 5 8
equalize 3 0, autocontrast 4 0
translate_y 4 3, sharpness 2 6
brightness 9 6, color 2 8
solarize 5 2, invert 0 0
equalize 2 0, autocontrast 6 0
equalize 2 0, equalize 6 0
color 9 9, equalize 6 0
autocontrast 8 0, solarize 2 8
brightness 1 3, color 7 0
solarize 4 5, autocontrast 9 0
translate_y 9 9, translate_y 7 9
autocontrast 9 0, solarize 8 3
equalize 8 0, invert 1 0
translate_y 7 9, autocontrast 9 0""",
    "svhn": """
shear_x 9 4, invert 2 0
shear_y 9 8, invert 7 0
equalize 6 0, solarize 6 6
invert 9 0, equalize 6 0
equalize 6 0, rotate 9 3
shear_x 9 4, autocontrast 8 0
shear_y 9 8, invert 4 0
shear_y 9 5, solarize 2 6
invert 9 0, autocontrast 8 0
equalize 6 0, rotate 9 3
shear_x 9 4, solarize 3 3
shear_y 8 8, invert 7 0
equalize 9 0, translate_y 6 6
invert 9 0, equalize 6 0
contrast 3 3, rotate 8 4
invert 8 0, translate_y 0 2
shear_y 7 6, solarize 4 8
invert 6 0, rotate 8 4
shear_y 3 7, translate_x 9 3
shear_x 1 6, invert 6 0
solarize 7 2, translate_y 6 7
shear_y 8 4, invert 8 0
shear_x 7 9, translate_y 8 3
shear_y 8 5, autocontrast 7 0
shear_x 7 2, invert 1 0""",
    "imagenet": """
posterize 4 8, rotate 6 9
solarize 6 5, autocontrast 6 0
equalize 8 0, equalize 6 0
posterize 6 7, posterize 6 6
equalize 4 0, solarize 2 4
equalize 4 0, rotate 8 8
solarize 6 3, equalize 6 0
posterize 8 5, equalize 10 0
rotate 2 3, solarize 6 8
equalize 6 0, posterize 4 6
rotate 8 8, color 4 0
rotate 4 9, equalize 6 0
equalize 0 0, equalize 8 0
invert 6 0, equalize 10 0
color 6 4, contrast 10 8
rotate 8 8, color 10 2
color 8 8, solarize 8 7
sharpness 4 7, invert 6 0
shear_x 6 5, equalize 10 0
color 4 0, equalize 6 0
equalize 4 0, solarize 2 4
solarize 6 5, autocontrast 6 0
invert 6 0, equalize 10 0
color 6 4, contrast 10 8
equalize 8 0, equalize 6 0""",
}


class AutoAugment(ImageTransform):
    """Draws one of 25 pairs of operations for each image; each of the two is applied with its probability.

    Cubuk et al. 2019, "AutoAugment: Learning Augmentation Policies from Data", section 3. Ranges as in torchvision.

    Args:
        policy: "cifar10", "svhn" or "imagenet".
        interpolation: "bilinear" or "nearest", for geometric operations.
        fill: raw value for pixels outside of the image, or one per channel.
        probability: of transforming an image.
    """

    channels = (1, 3)

    def __init__(
        self,
        policy: str = "cifar10",
        interpolation: str = "nearest",
        fill: float | Sequence[float] = 0,
        probability: float = 1.0,
    ) -> None:
        super().__init__(probability)
        if policy not in POLICIES:
            raise UserError(f"augmentation: AutoAugment.policy={policy}: {suggest(policy, POLICIES)}")
        check_interpolation("AutoAugment", interpolation)
        self.interpolation, self.fill = interpolation, fill
        self.operation, self.chance, self.level = read_policy(POLICIES[policy])

    def transform_images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        pair = torch.randint(len(self.operation), (len(x),), generator=generator)
        for half in range(2):
            operation, chance, level = (of[pair, half] for of in (self.operation, self.chance, self.level))
            sign = draw_signs(AUTO, operation, generator)
            operation = torch.where(torch.rand(len(x), generator=generator) < chance, operation, -1)
            x = apply_operations(x, AUTO, operation, level, sign, self.interpolation, self.fill)
        return x


def read_policy(text: str) -> tuple[Tensor, Tensor, Tensor]:
    """Parse lines of ``name tenths level, name tenths level`` into operations, probabilities and levels 0..1, all [25, 2]."""
    names = list(AUTO)
    lines = [[half.split() for half in line.split(",")] for line in text.strip().splitlines()]
    operation = torch.tensor([[names.index(name) for name, _, _ in line] for line in lines])
    chance, level = (torch.tensor([[float(half[i]) for half in line] for line in lines]) for i in (1, 2))
    return operation, chance / 10, level / 9
