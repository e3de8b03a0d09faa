"""What a model knows of a corpus: the words of the training part, each with an id of its own; all others share one."""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.data.text.tokenizers import is_pretrained, load_tokenizer, pretrained_tokenizer
from lightning_modules.data.text.word_ids import encode

PADDING, UNKNOWN = 0, 1


class Vocabulary(nn.Module):
    """Maps corpus ids int [B, L] to model ids int64 [B, L]: 0 is padding, 1 any word that is not known.

    The words stand in a checkpoint, so that it can read texts (`encode`).

    Args:
        words: of the whole corpus, in the order of their ids from 1; or these as one string of JSON, see `recipe`.
        model_ids: of each of these words; or these joined by commas.
        tokenizer: how a text is cut into words.
        length: words of a sample; longer texts are cut.
    """

    def __init__(
        self, words: Sequence[str] | str, model_ids: Sequence[int] | str, tokenizer: str = "words", length: int = 1
    ) -> None:
        super().__init__()
        self.words: list[str] = list(json.loads(words) if isinstance(words, str) else words)
        given = model_ids.split(",") if isinstance(model_ids, str) else model_ids
        ids = [int(i) for i in given if i != ""]
        self.tokenizer, self.length = tokenizer, length
        self.register_buffer("lookup", torch.tensor([PADDING, *ids, UNKNOWN], dtype=torch.int64))
        self.lookup: Tensor

    @property
    def size(self) -> int:
        """How many model ids there are, padding and unknown among them."""
        return max(int(self.lookup.max()), UNKNOWN) + 1

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.lookup) - 1
        return self.lookup[x.long().clamp(0, last)]

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Raw samples int32 [N, L] of texts of a user's own; words that the corpus lacks get the last id."""
        cut = load_tokenizer(self.tokenizer)
        ids = {word: i for i, word in enumerate(self.words, start=1)}
        return encode([cut(text) for text in texts], ids, self.length)

    def recipe(self) -> dict[str, Any]:
        """The plain values that build it again.

        Lists are strings here: a config takes 30,000 nodes for seconds, and a word such as ``???`` or ``${…}`` for its own.
        """
        return {
            "_target_": f"{Vocabulary.__module__}.{Vocabulary.__qualname__}",
            "words": json.dumps(self.words).replace("$", "\\u0024"),
            "model_ids": ",".join(str(i) for i in self.lookup[1:-1].tolist()),
            "tokenizer": self.tokenizer,
            "length": self.length,
        }


def fit_vocabulary_ids(x: Tensor, corpus: int, min_count: int = 1, max_words: int | None = None) -> list[int]:
    """The model id of each of the `corpus` words: from 2 by falling count in the texts `x` (ties: first seen), else 1.

    Args:
        x: corpus ids [N, L] of the training part.
        min_count: words that are there less often are not known.
        max_words: the most frequent so many are known.
    """
    counts = torch.bincount(x.flatten(), minlength=corpus + 2)[1 : corpus + 1]
    order = counts.argsort(descending=True, stable=True)
    known = order[counts[order] >= max(1, min_count)][:max_words]
    ids = torch.full((corpus,), UNKNOWN)
    ids[known] = torch.arange(UNKNOWN + 1, UNKNOWN + 1 + len(known))
    return ids.tolist()


def pretrained_ids(words: Sequence[str], tokenizer: str, download: bool = False) -> list[int]:
    """The ids that a pretrained tokenizer gives its pieces, plus one, as 0 is padding here."""
    assert is_pretrained(tokenizer)
    return [int(i) + 1 for i in pretrained_tokenizer(tokenizer, download).convert_tokens_to_ids(list(words))]
