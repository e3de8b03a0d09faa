"""Test-time augmentation: a sample is judged by several views of it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.augmentation.compose import Compose
from lightning_modules.config.errors import UserError


class TestTimeAugmentation(nn.Module):
    """Yields a batch of raw samples as it is, then `views` augmented ones (Krizhevsky et al. 2012, section 4.1).

    Args:
        transforms: as of `Compose`; they must leave targets and the number of samples alone.
        views: beside the samples as they are.
    """

    __test__ = False  # pytest takes it for one

    def __init__(self, transforms: Mapping[str, nn.Module | None] | Sequence[nn.Module | None], views: int = 4) -> None:
        super().__init__()
        if views < 1:
            raise UserError(f"tta.views={views} must be at least 1; tta=none goes without")
        self.compose = Compose(transforms)
        self.views = views

    def prepare(self, data: Any) -> None:
        """As `Compose.prepare`."""
        self.compose.prepare(data)

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> Iterator[Tensor]:
        """Yield the raw samples of each view, [B, …].

        Raises:
            UserError: a transform mixes samples.
        """
        yield batch["x"]
        for _ in range(self.views):
            view = self.compose(batch, generator)
            if view["y"] is not batch["y"] or "mix_partner" in view:
                raise UserError("tta: a transform that mixes samples or their targets gives no view of one sample")
            yield view["x"]
