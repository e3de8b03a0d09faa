"""Texts as rows of word ids, without loss: 0 is padding, id i is the i-th word that the corpus shows."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor


def build_word_ids(texts: Iterable[Sequence[str]]) -> dict[str, int]:
    """The id of each word, from 1, in order of first appearance."""
    ids: dict[str, int] = {}
    for text in texts:
        for word in text:
            ids.setdefault(word, len(ids) + 1)
    return ids


def encode(texts: Sequence[Sequence[str]], ids: dict[str, int], length: int) -> Tensor:
    """int32 [N, length]: the words of each text, cut at `length`, then zeros; words without an id become ``len(ids) + 1``."""
    rows = np.zeros((len(texts), length), np.int32)
    strange = len(ids) + 1
    for row, text in zip(rows, texts, strict=True):
        found = [ids.get(word, strange) for word in text[:length]]
        row[: len(found)] = found
    return torch.from_numpy(rows)


def decode(x: Tensor, words: Sequence[str], strange: str = "<unk>") -> str:
    """The words of one row of ids, joined by spaces; padding is left out."""
    known = len(words)
    return " ".join(words[i - 1] if i <= known else strange for i in x.flatten().tolist() if i > 0)
