"""Synonym replacement and insertion."""

from pathlib import Path

import torch
from torch import Tensor

from lightning_modules.augmentation.per_sample import to_device_of
from lightning_modules.augmentation.text.synonyms import distributional_neighbors, read_table, read_wordnet, synonym_ids
from lightning_modules.augmentation.text.text_transform import (
    TextTransform,
    compact,
    num_words,
    row_lengths,
    sample_positions,
    shuffle_positions,
)
from lightning_modules.config.bounds import Count, Fraction, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.data.text.text_data import TextData


class SynonymTransform(TextTransform):
    """Base of synonym transforms; stop words and punctuation have no synonyms and are none.

    Only words of the training part are inserted, because a model does not know others.

    Args:
        share: fraction of the words, at least one.
        source: "neighbours" (words with similar contexts in the training part), a table of synonyms (.tsv), or the
            folder of WordNet's database.
        most: maximum number of neighbours per word.
    """

    @bounded
    def __init__(
        self, share: Fraction = 0.1, source: str = "neighbours", most: Count = 5, probability: float = 1.0
    ) -> None:
        super().__init__(probability)
        self.share, self.source, self.most = share, str(source), most
        self.register_buffer("table", torch.zeros(1, 1, dtype=torch.int64), persistent=False)
        self.table: Tensor

    def prepare(self, data: TextData) -> None:
        """Build the table of synonyms by word id.

        Raises:
            UserError: the source is missing, or has no synonym for any word of the training part.
        """
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        x = data.arrays.x.index_select(0, data.splits["train"])
        words = data.words
        if self.source == "neighbours":
            table = distributional_neighbors(x, len(words), self.most)
        else:
            place = Path(self.source).expanduser()
            synonyms = read_table(place) if place.suffix else read_wordnet(place)
            table = synonym_ids(synonyms, words, torch.bincount(x.flatten(), minlength=len(words) + 2) > 0)
        fixed = torch.zeros(len(table), dtype=torch.bool)  # neither replaced nor used as replacement
        for i, word in enumerate(words, start=1):
            fixed[i] = word in ENGLISH_STOP_WORDS or not any(letter.isalpha() for letter in word)
        table = compact(table, (table != 0) & ~fixed[table] & ~fixed[:, None])
        if not table.any():
            raise UserError(
                f"augmentation: {type(self).__name__}.source={self.source}: no training word of {data.name} has a synonym"
            )
        self.table = table

    def has_synonym(self, x: Tensor) -> Tensor:
        """Return bool [n, L]: which words have synonyms."""
        return (self.table.to(x.device)[:, 0] != 0)[x.long().clamp(max=len(self.table) - 1)]

    def draw_synonym(self, words: Tensor, draws: Tensor) -> Tensor:
        """Return a synonym of each word, selected by `draws` in [0, 1); 0 for a word without synonyms."""
        table = self.table.to(words.device)
        words = words.long().clamp(max=len(table) - 1)
        known = (table != 0).sum(1)[words]
        return table[words, (draws * known).long().clamp(max=table.shape[1] - 1)]


class ReplaceWords(SynonymTransform):
    """Replaces random words by synonyms (Wei and Zou 2019, "EDA", synonym replacement)."""

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        chosen = sample_positions(self.has_synonym(x), num_words(row_lengths(x), self.share), generator)
        draws = to_device_of(x, torch.rand(x.shape, generator=generator))
        return torch.where(chosen, self.draw_synonym(x, draws).to(x.dtype), x)


class InsertWords(SynonymTransform):
    """Inserts synonyms of random words at random places (Wei and Zou 2019, "EDA", random insertion).

    As many as `share` requests and the row can hold: the longest text of a corpus is unchanged.
    """

    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        lengths, width = row_lengths(x), x.shape[1]
        can = self.has_synonym(x)
        wanted = num_words(lengths, self.share).minimum(can.sum(1)).minimum(width - lengths)
        order = shuffle_positions(can, generator)
        draws, places = to_device_of(x, torch.rand(2, *x.shape, generator=generator))
        slots = int(wanted.max())
        if slots == 0:
            return x.clone()
        new = self.draw_synonym(x.gather(1, order[:, :slots]), draws[:, :slots]).to(x.dtype)
        used = torch.arange(slots, device=x.device) < wanted[:, None]
        before = (places[:, :slots] * (lengths[:, None] + 1)).floor() - 0.5  # between two words, or at an end
        column = torch.arange(width, device=x.device, dtype=before.dtype).expand(x.shape)
        key = torch.cat([column.masked_fill(x == 0, torch.inf), before.masked_fill(~used, torch.inf)], dim=1)
        both = torch.cat([x, new.masked_fill(~used, 0)], dim=1)
        return both.gather(1, key.argsort(dim=1, stable=True)[:, :width])
