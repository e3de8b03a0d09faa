"""Tokenizers, word ids of a corpus (lossless), and the vocabulary of a model: the words of the training part."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.config.plain import PlainDict
from lightning_modules.zoo.model.pretrained_tokenizer import pretrained_tokenizer

Tokenizer = Callable[[str], list[str]]

_WORD_OR_PUNCTUATION = re.compile(r"'(?:s|t|m|d|re|ve|ll|em)\b|\w+(?:['’]\w+)*|[^\w\s]")
_DROPPED_CHARACTERS = re.compile(r"[^A-Za-z0-9(),!?'`]")
_CONTRACTION = re.compile(r"(?=n't|'s|'ve|'re|'d|'ll)")
_PUNCTUATION = re.compile(r"([(),!?])")


def words(text: str) -> list[str]:
    """Return lower-case words (inner apostrophes are kept) and punctuation marks."""
    return _WORD_OR_PUNCTUATION.findall(text.lower())


def kim2014(text: str) -> list[str]:
    """Return lower-case words, cleaned as in Kim 2014: letters, digits and ``(),!?'`` are kept.

    Contractions such as 's and n't and the marks ``(),!?`` are separate words. Full stops are dropped, and with them
    the ends of most sentences.
    """
    parted = _CONTRACTION.sub(" ", _DROPPED_CHARACTERS.sub(" ", text))
    return _PUNCTUATION.sub(r" \1 ", parted).lower().split()


def whitespace(text: str) -> list[str]:
    """Return the text split at white space."""
    return text.split()


TOKENIZERS: dict[str, Tokenizer] = {"words": words, "kim": kim2014, "spaces": whitespace}


def is_pretrained(name: str) -> bool:
    """Return whether `name` is a folder or a Hugging Face name, rather than one of `TOKENIZERS`."""
    return name not in TOKENIZERS and ("/" in name or Path(name).expanduser().is_dir())


def check_tokenizer(name: str) -> None:
    """Raise UserError if there is no tokenizer of that name."""
    if name not in TOKENIZERS and not is_pretrained(name):
        raise UserError(f"data.tokenizer={name}: {suggest(name, TOKENIZERS)} (or a Hugging Face tokenizer)")


def load_tokenizer(name: str, download: bool = False) -> Tokenizer:
    """Return the tokenizer `name`, or that of a pretrained tokenizer (without special tokens).

    Raises UserError if there is no tokenizer of that name, or it is not available locally.
    """
    check_tokenizer(name)
    if name in TOKENIZERS:
        return TOKENIZERS[name]
    pretrained = pretrained_tokenizer(name, download)
    return lambda text: [str(piece) for piece in pretrained.tokenize(text)]


def build_word_ids(texts: Iterable[Sequence[str]]) -> dict[str, int]:
    """Return the id of each word, from 1, in order of first appearance."""
    ids: dict[str, int] = {}
    for text in texts:
        for word in text:
            ids.setdefault(word, len(ids) + 1)
    return ids


def encode(texts: Sequence[Sequence[str]], ids: dict[str, int], length: int) -> Tensor:
    """Return int32 [N, length]: word ids, truncated or zero-padded; words without an id become ``len(ids) + 1``."""
    rows = np.zeros((len(texts), length), np.int32)
    unknown = len(ids) + 1
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = [ids.get(word, unknown) for word in text[:length]]
    return torch.from_numpy(rows)


def decode(x: Tensor, words: Sequence[str], unknown: str = "<unk>") -> str:
    """Return the words of one row of ids, joined by spaces, without padding."""
    known = len(words)
    return " ".join(words[i - 1] if i <= known else unknown for i in x.flatten().tolist() if i > 0)


PADDING, UNKNOWN = 0, 1


class Vocabulary(nn.Module):
    """Maps corpus ids int [B, L] to model ids int64 [B, L]: 0 is padding, 1 the unknown word.

    The words are saved in checkpoints, so that a recorded model can encode texts.

    Args:
        words: of the whole corpus, by id from 1; a list or a JSON string, see `recipe`.
        model_ids: of each of these words; a list or a comma-separated string.
        tokenizer: name of the tokenizer.
        length: words per sample; longer texts are truncated.
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
        """Number of model ids, including padding and unknown."""
        return max(int(self.lookup.max()), UNKNOWN) + 1

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.lookup) - 1
        return self.lookup[x.long().clamp(0, last)]

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return raw samples int32 [N, L] of new texts; words that are not in the corpus get the last id."""
        cut, ids = load_tokenizer(self.tokenizer), {word: i for i, word in enumerate(self.words, start=1)}
        return encode([cut(text) for text in texts], ids, self.length)

    def recipe(self) -> PlainDict:
        """Return the plain values from which ``hydra.utils.instantiate`` rebuilds this module.

        Lists are strings: OmegaConf is slow with 30,000 nodes, and would interpret words such as ``???`` or ``${…}``.
        """
        return {
            "_target_": f"{Vocabulary.__module__}.{Vocabulary.__qualname__}",
            "words": json.dumps(self.words).replace("$", "\\u0024"),
            "model_ids": ",".join(str(i) for i in self.lookup[1:-1].tolist()),
            "tokenizer": self.tokenizer,
            "length": self.length,
        }


def fit_vocabulary_ids(x: Tensor, corpus: int, min_count: int = 1, max_words: int | None = None) -> list[int]:
    """Return the model id of each of the `corpus` words: from 2 by descending count (ties: first seen), else 1.

    Args:
        x: corpus ids [N, L] of the training part.
        min_count: rarer words are unknown.
        max_words: maximum number of known words.
    """
    counts = torch.bincount(x.flatten(), minlength=corpus + 2)[1 : corpus + 1]
    order = counts.argsort(descending=True, stable=True)
    known = order[counts[order] >= max(1, min_count)][:max_words]
    ids = torch.full((corpus,), UNKNOWN)
    ids[known] = torch.arange(UNKNOWN + 1, UNKNOWN + 1 + len(known))
    return ids.tolist()


def pretrained_ids(words: Sequence[str], tokenizer: str, download: bool = False) -> list[int]:
    """Return the ids of a pretrained tokenizer plus one, because 0 is padding here."""
    assert is_pretrained(tokenizer)
    return [int(i) + 1 for i in pretrained_tokenizer(tokenizer, download).convert_tokens_to_ids(list(words))]
