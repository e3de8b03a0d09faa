"""Word-level noise: deletion, masking and swapping of words, and shuffled sentences."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.augmentation.per_sample import require_prepared, to_device_of, uniform
from lightning_modules.augmentation.text.text_transform import (
    TextTransform,
    compact,
    num_words,
    row_lengths,
    shuffle_positions,
)
from lightning_modules.config.bounds import Fraction, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data.text_data import TextData


class DeleteWords(TextTransform):
    """Deletes each word with probability `share`, but at least one is kept (Wei and Zou 2019, "EDA", random deletion)."""

    @bounded
    def __init__(self, share: Fraction = 0.1, probability: float = 1.0) -> None:
        super().__init__(probability)
        self.share = share

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return compact(x, ~draw_words(x, self.share, generator) & (x != 0))


def draw_words(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Draw bool [n, L]: each word with probability `share`, but not all words of a text."""
    draws = to_device_of(x, torch.rand(x.shape, generator=generator)).masked_fill_(x == 0, -1.0)
    # the word with the highest draw is always kept
    saved = torch.zeros_like(x, dtype=torch.bool).scatter_(1, draws.argmax(1, keepdim=True), True)
    return (draws < share) & ~saved & (x != 0)


class ReplaceByUnknown(TextTransform):
    """Base of transforms that replace words by the unknown word of the data."""

    @bounded
    def __init__(self, share: Fraction, probability: float) -> None:
        super().__init__(probability)
        self.share, self.unknown = share, 0

    def prepare(self, data: TextData) -> None:
        """Read the id of the unknown word."""
        self.unknown = int(data.unknown_id)

    def check(self, x: Tensor) -> None:
        """Raise UserError if the samples are not texts, or `prepare` was not called."""
        super().check(x)
        require_prepared(self, self.unknown)


class WordDropout(ReplaceByUnknown):
    """Replaces each word with probability `share` by the unknown word (Dai and Le 2015; Bowman et al. 2016, section 3.1).

    At least one word is kept. This also trains the embedding of the unknown word.
    """

    def __init__(self, share: Fraction = 0.1, probability: float = 1.0) -> None:
        super().__init__(share, probability)

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x.masked_fill(draw_words(x, self.share, generator), self.unknown)


class MaskSpan(ReplaceByUnknown):
    """Replaces a random span of each text by the unknown word (Joshi et al. 2020, "SpanBERT").

    Args:
        share: maximum fraction of a text; the span length is uniform from one word to that. At least one word is kept.
    """

    def __init__(self, share: Fraction = 0.3, probability: float = 1.0) -> None:
        super().__init__(share, probability)

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        lengths = row_lengths(x)
        size, place = (uniform(len(x), 0, 1, generator).to(x.device) for _ in range(2))
        most = (self.share * lengths).floor().long().clamp(min=1).minimum((lengths - 1).clamp(min=0))
        span = ((size * most).long() + 1).minimum(most)
        start = (place * (lengths - span + 1)).long()
        column = torch.arange(x.shape[1], device=x.device)
        return x.masked_fill((column >= start[:, None]) & (column < (start + span)[:, None]), self.unknown)


class SwapWords(TextTransform):
    """Swaps random pairs of words (Wei and Zou 2019, "EDA", random swap).

    Args:
        share: number of pairs as a fraction of the words, at least one; no word is swapped twice.
    """

    @bounded
    def __init__(self, share: Fraction = 0.1, probability: float = 1.0) -> None:
        super().__init__(probability)
        self.share = share

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        lengths = row_lengths(x)
        order = shuffle_positions(x != 0, generator)
        pairs = x.shape[1] // 2
        one, other = order[:, 0 : 2 * pairs : 2], order[:, 1 : 2 * pairs : 2]
        wanted = num_words(lengths, self.share).minimum(lengths // 2)
        swapped = torch.arange(pairs, device=x.device) < wanted[:, None]
        source = torch.arange(x.shape[1], device=x.device).expand(x.shape).clone()
        source.scatter_(1, one, torch.where(swapped, other, one))
        source.scatter_(1, other, torch.where(swapped, one, other))
        return x.gather(1, source)


class ShuffleSentences(TextTransform):
    """Shuffles the sentences of a text, each with its final punctuation mark.

    Args:
        ends: the words that end a sentence. Not all tokenizers keep them (`data.tokenizer`).
    """

    def __init__(self, ends: Sequence[str] = (".", "!", "?"), probability: float = 1.0) -> None:
        super().__init__(probability)
        self.ends = list(ends)
        self.register_buffer("end_ids", torch.zeros(0, dtype=torch.int64), persistent=False)
        self.end_ids: Tensor

    def prepare(self, data: TextData) -> None:
        """Look up the ids of the marks. Raises UserError if none occurs in the data."""
        ids = [i for i, word in enumerate(data.words, start=1) if word in self.ends]
        if not ids:
            raise UserError(
                f"augmentation: ShuffleSentences.ends={self.ends}: none of these is a word of {data.name}; "
                "try data.tokenizer=words"
            )
        self.end_ids = torch.tensor(ids)

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        ends = torch.isin(x, self.end_ids.to(x.device, x.dtype))
        sentence = ends.cumsum(1) - ends.long()  # a mark belongs to the sentence that it ends
        keys = to_device_of(x, torch.rand(len(x), x.shape[1], generator=generator))
        key = keys.gather(1, sentence).masked_fill_(x == 0, 2.0)
        return x.gather(1, key.argsort(dim=1, stable=True))
