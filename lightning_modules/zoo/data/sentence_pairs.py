"""Sentences of two languages as token ids: a vocabulary of words, the two of a translation, and their padding."""

import json
import re
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_modules.config.plain import PlainDict
from lightning_modules.zoo.data.token_vocabulary import TokenVocabulary

PAD, BOS, EOS = range(3)  # before the ids of a vocabulary
SPECIAL = 3
_TOKEN = re.compile(r"▁?(?:\w+|[^\w▁])")


class WordVocabulary(TokenVocabulary):
    """Words and single punctuation marks; "▁" stands for the space before one, so that texts can be put together again.

    Runs of white space become one space. The last token is that of unknown words.

    Args:
        words: a JSON list.
    """

    def __init__(self, words: str) -> None:
        tokens: list[str] = [*json.loads(words), "▁<unk>"]
        super().__init__(tokens, [len(token) for token in tokens])
        self.unknown_id = len(tokens) - 1
        self._ids = {token: i for i, token in enumerate(tokens[:-1])}

    def to_ids(self, text: str) -> Tensor:
        ids = [self._ids.get(token, len(self._ids)) for token in split_words(text)]
        return torch.tensor(ids, dtype=torch.int32)

    def to_text(self, ids: Tensor) -> str:
        return "".join(self.tokens[i] for i in ids.tolist()).replace("▁", " ").strip()

    def unknown(self, text: str) -> list[str]:
        return [token.removeprefix("▁") for token in split_words(text) if token not in self._ids]

    def recipe(self) -> PlainDict:
        return {**super().recipe(), "words": json.dumps(self.tokens[:-1]).replace("$", "\\u0024")}


def split_words(text: str) -> list[str]:
    """Return the words and punctuation marks of a text, with "▁" before those that follow white space or begin it."""
    return _TOKEN.findall("▁".join(["", *text.split()]))


def fit_words(texts: Sequence[str], min_count: int = 1) -> WordVocabulary:
    """Return the words that occur at least `min_count` times, the most frequent first."""
    counts = Counter(token for text in texts for token in split_words(text))
    return WordVocabulary(json.dumps([token for token, count in counts.most_common() if count >= min_count]))


class SentencePairs(nn.Module):
    """The vocabularies of both languages; as a preprocessing it takes ids int [B, 2, T] and returns them as int64.

    Row 0 of a sample is the source and EOS; row 1, the input of the decoder, is BOS and the target; both are padded.

    Args:
        lowercase: whether texts are lower-cased.
    """

    def __init__(self, source: TokenVocabulary, target: TokenVocabulary, lowercase: bool = False) -> None:
        super().__init__()
        self.source, self.target, self.lowercase = source, target, lowercase

    def forward(self, x: Tensor) -> Tensor:
        return x.long()

    @property
    def unknown_source(self) -> int:
        """The id of unknown source words; -1 where no text is unknown."""
        return -1 if self.source.unknown_id is None else self.source.unknown_id + SPECIAL

    @property
    def banned(self) -> tuple[int, ...]:
        """The target ids that a translation never has."""
        unknown = self.target.unknown_id
        return (PAD, BOS) if unknown is None else (PAD, BOS, unknown + SPECIAL)

    def source_ids(self, texts: Sequence[str]) -> list[Tensor]:
        """Return the ids of each source text, with EOS; not truncated."""
        return [_ids(self.source, text.lower() if self.lowercase else text) for text in texts]

    def target_ids(self, texts: Sequence[str]) -> list[Tensor]:
        """Return the ids of each target text, with EOS; not truncated."""
        return [_ids(self.target, text.lower() if self.lowercase else text) for text in texts]

    def to_text(self, ids: Tensor) -> str:
        """Return the target text of ids [T], up to the first EOS or padding."""
        ends = ((ids == EOS) | (ids == PAD)).nonzero()
        ids = ids[: int(ends[0])] if len(ends) else ids
        return self.target.to_text(ids[ids >= SPECIAL] - SPECIAL)

    def recipe(self) -> PlainDict:
        """Return the plain values from which ``hydra.utils.instantiate`` rebuilds this module."""
        target = f"{SentencePairs.__module__}.{SentencePairs.__qualname__}"
        sides = {"source": self.source.recipe(), "target": self.target.recipe()}
        return {"_target_": target, **sides, "lowercase": self.lowercase}


def _ids(vocabulary: TokenVocabulary, text: str) -> Tensor:
    return torch.cat([vocabulary.to_ids(text) + SPECIAL, torch.tensor([EOS], dtype=torch.int32)])


def pad(rows: Sequence[Tensor], length: int, value: int = PAD) -> Tensor:
    """Return int32 [N, length]: the rows, truncated or padded with `value`."""
    out = torch.full((len(rows), length), value, dtype=torch.int32)
    for row, ids in zip(out, rows, strict=True):
        row[: len(ids)] = ids[:length]
    return out


def decoder_input(y: Tensor) -> Tensor:
    """Return what a decoder sees, [N, T], to predict the padded ids y [N, T]: BOS, and the ids without their last."""
    shifted = torch.cat([torch.full_like(y[:, :1], BOS), y[:, :-1]], 1)
    return shifted.where(y != PAD, PAD)


def to_bytes(texts: Sequence[str]) -> Tensor:
    """Return the UTF-8 of texts, uint8 [N, R], padded with 0."""
    rows = [text.encode() for text in texts]
    longest = max(map(len, rows), default=0)
    joined = b"".join(row.ljust(longest, b"\0") for row in rows)
    return torch.frombuffer(bytearray(joined or b"\0"), dtype=torch.uint8)[: len(joined)].view(len(rows), longest)


def from_bytes(row: Tensor) -> str:
    """Return the text of UTF-8 [R] that is padded with 0."""
    return row.numpy().tobytes().rstrip(b"\0").decode()
