"""Test-time augmentation: predictions are averaged over several views of a sample."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.data.compose import Compose


class TestTimeAugmentation(nn.Module):
    """Yields the raw samples, then `views` augmented versions (Krizhevsky et al. 2012, section 4.1).

    Args:
        transforms: as for `Compose`; they must not change targets or the number of samples.
        views: number of augmented versions.
    """

    __test__ = False  # not a test class of pytest

    @bounded
    def __init__(
        self, transforms: Mapping[str, nn.Module | None] | Sequence[nn.Module | None], views: Count = 4
    ) -> None:
        super().__init__()
        self.compose = Compose(transforms)
        self.views = views

    def prepare(self, data: object) -> None:
        """See `Compose.prepare`."""
        self.compose.prepare(data)

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> Iterator[Tensor]:
        """Yield the raw samples [B, …] of each view. Raises UserError if a transform mixes samples."""
        yield batch["x"]
        for _ in range(self.views):
            view = self.compose(batch, generator)
            if view["y"] is not batch["y"] or "mix_partner" in view:
                raise UserError("tta: transforms that mix samples or targets cannot be used")
            yield view["x"]
