"""Lossless word ids of texts: 0 is padding, id i is the i-th distinct word of the corpus."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor


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
        found = [ids.get(word, unknown) for word in text[:length]]
        row[: len(found)] = found
    return torch.from_numpy(rows)


def decode(x: Tensor, words: Sequence[str], unknown: str = "<unk>") -> str:
    """Return the words of one row of ids, joined by spaces, without padding."""
    known = len(words)
    return " ".join(words[i - 1] if i <= known else unknown for i in x.flatten().tolist() if i > 0)
