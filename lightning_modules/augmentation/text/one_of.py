"""Random choice of one transform per text."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.augmentation.text.text_transform import TextTransform
from lightning_modules.config.errors import UserError


class OneOf(TextTransform):
    """Applies one of `transforms` to each text, drawn uniformly (as for the copies of EDA, Wei and Zou 2019).

    Args:
        transforms: by name; a null removes one.
    """

    def __init__(self, transforms: Mapping[str, nn.Module | None], probability: float = 1.0) -> None:
        super().__init__(probability)
        given = [transform for transform in transforms.values() if transform is not None]
        words = [
            t
            for t in given
            if isinstance(t, TextTransform) and type(t).transform_samples is not TextTransform.transform_samples
        ]
        if not given or len(words) < len(given):
            raise UserError(
                f"augmentation: OneOf.transforms={list(transforms)}: expected word transforms, such as SwapWords"
            )
        self.transforms = nn.ModuleList(given)

    def prepare(self, data: Any) -> None:
        """Prepare all transforms."""
        for transform in self.transforms:
            assert isinstance(transform, TextTransform)
            transform.prepare(data)

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        which = torch.randint(len(self.transforms), (len(x),), generator=generator)
        changed = x.clone()
        for i, transform in enumerate(self.transforms):
            rows = (which == i).nonzero().squeeze(1).to(x.device)
            if len(rows):
                part = {"x": x.index_select(0, rows)}
                changed[rows] = transform(part, generator)["x"]
        return changed
