"""Words that are left out or hidden."""

from typing import Any

import torch
from torch import Tensor

from lightning_modules.augmentation.per_sample import to_device_of, uniform
from lightning_modules.augmentation.text.text_transform import TextTransform, check_share, compact, row_lengths
from lightning_modules.config.errors import UserError


class DeleteWords(TextTransform):
    """Each word is left out with the probability `share`; one stays (Wei and Zou 2019, "EDA", random deletion)."""

    def __init__(self, share: float = 0.1, probability: float = 1.0) -> None:
        super().__init__(probability)
        check_share(self, "share", share)
        self.share = share

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        draws = to_device_of(x, torch.rand(x.shape, generator=generator)).masked_fill_(x == 0, -1.0)
        # where all would go, the word of the highest draw stays: any is as likely
        saved = torch.zeros_like(x, dtype=torch.bool).scatter_(1, draws.argmax(1, keepdim=True), True)
        return compact(x, ((draws >= self.share) | saved) & (x != 0))


class ReplaceByUnknown(TextTransform):
    """What hides words puts the id of an unknown one in their place; it is looked up in the data."""

    def __init__(self, share: float, probability: float) -> None:
        super().__init__(probability)
        check_share(self, "share", share)
        self.share = share
        self.unknown = 0

    def prepare(self, data: Any) -> None:
        """Look up the id of a word that is not known."""
        self.unknown = int(data.unknown_id)

    def check(self, x: Tensor) -> None:
        """Raise UserError where the samples are no texts, or the data were not shown."""
        super().check(x)
        if not self.unknown:
            raise UserError(
                f"augmentation: {type(self).__name__} was not shown the data: call prepare(datamodule) first"
            )


class WordDropout(ReplaceByUnknown):
    """Each word becomes the unknown one with the probability `share` (Dai and Le 2015; Bowman et al. 2016, section 3.1).

    At least one word stays, and as many places as there were: what unknown words in a test come to is learnt beside.
    """

    def __init__(self, share: float = 0.1, probability: float = 1.0) -> None:
        super().__init__(share, probability)

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        draws = to_device_of(x, torch.rand(x.shape, generator=generator)).masked_fill_(x == 0, -1.0)
        saved = torch.zeros_like(x, dtype=torch.bool).scatter_(1, draws.argmax(1, keepdim=True), True)
        return x.masked_fill((draws < self.share) & ~saved & (x != 0), self.unknown)


class MaskSpan(ReplaceByUnknown):
    """Consecutive words of each text become the unknown one, from a random place on (Joshi et al. 2020, "SpanBERT").

    Args:
        share: the most of a text that is masked; how much is drawn evenly from one word to that. At least one word stays.
    """

    def __init__(self, share: float = 0.3, probability: float = 1.0) -> None:
        super().__init__(share, probability)

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        lengths = row_lengths(x)
        size, place = (uniform(len(x), 0, 1, generator).to(x.device) for _ in range(2))
        most = (self.share * lengths).floor().long().clamp(min=1).minimum((lengths - 1).clamp(min=0))
        span = ((size * most).long() + 1).minimum(most)
        start = (place * (lengths - span + 1)).long()
        column = torch.arange(x.shape[1], device=x.device)
        return x.masked_fill((column >= start[:, None]) & (column < (start + span)[:, None]), self.unknown)
