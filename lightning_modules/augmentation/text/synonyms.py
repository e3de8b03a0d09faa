"""Synonyms from a table, from WordNet, or by distributional similarity in the training part."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_modules.config.errors import UserError

Synonyms = dict[str, list[str]]
_WORDNET_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")


def read_table(path: Path) -> Synonyms:
    """Read a table: one word and its synonyms per line, separated by tabs.

    Raises UserError if there is no such file, or no word has a synonym.
    """
    if not path.is_file():
        raise UserError(f"augmentation: source={path}: file does not exist")
    rows = [line.strip().split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    found = {row[0].strip(): [word.strip() for word in row[1:] if word.strip()] for row in rows}
    if not any(found.values()):
        raise UserError(
            f"augmentation: source={path}: expected a word and its synonyms in each line, separated by tabs"
        )
    return found


def read_wordnet(folder: Path) -> Synonyms:
    """Read lower-case words that share a synset of WordNet (Miller 1995; wndb(5WN)), without multi-word expressions.

    Raises UserError if the folder is not that of WordNet, or a file is damaged.
    """
    if not all((folder / name).is_file() for name in _WORDNET_FILES):
        raise UserError(
            f"augmentation: source={folder}: WordNet's {', '.join(_WORDNET_FILES)} are not there; `apt-get install "
            "wordnet-base` installs them in /usr/share/wordnet. A table of synonyms (.tsv) or source=neighbours needs no WordNet"
        )
    found: dict[str, dict[str, None]] = {}
    for name in _WORDNET_FILES:
        for number, line in enumerate((folder / name).read_text(encoding="latin-1").splitlines(), start=1):
            if line.startswith(" ") or not line:  # the licence
                continue
            try:
                members = _synset_words(line)
            except (IndexError, ValueError) as error:
                raise UserError(f"{folder / name}, line {number}: not a synset of WordNet") from error
            for word in members:
                found.setdefault(word, {}).update((other, None) for other in members if other != word)
    return {word: list(others) for word, others in found.items() if others}


def _synset_words(line: str) -> list[str]:
    """Return the words of a synset line: offset, file, type, count in hexadecimal, then pairs (word, number)."""
    fields = line.split(" ")
    words = [fields[4 + 2 * i] for i in range(int(fields[3], 16))]
    plain = (word.partition("(")[0].lower() for word in words)  # adjectives have a syntactic marker: (a), (p), (ip)
    return list(dict.fromkeys(word for word in plain if "_" not in word))


def distributional_neighbors(
    x: Tensor, corpus: int, most: int = 5, dim: int = 50, window: int = 2, min_count: int = 3
) -> Tensor:
    """Return int64 [corpus + 2, most]: the nearest words of each word id by cosine similarity, padded with 0.

    Vectors are the truncated SVD of positive pointwise mutual information (Levy, Goldberg and Dagan 2015, equations 3 and 4
    with the root of the singular values), counted on the texts `x` [N, L] of the training part. Near words have similar
    contexts, but may be antonyms.

    Args:
        corpus: number of words; ids start at 1.
        window: context words on either side.
        min_count: rarer words have no neighbours and are none.
    """
    counts = torch.bincount(x.flatten(), minlength=corpus + 2)
    known = (counts[1 : corpus + 1] >= min_count).nonzero().squeeze(1) + 1
    table = torch.zeros(corpus + 2, most, dtype=torch.int64)
    number = torch.full((corpus + 2,), -1)
    number[known] = torch.arange(len(known))
    information = _pmi_matrix(number[x.long()], len(known), window)
    if len(known) <= 3 or information is None:
        return table
    return _nearest(table, known, _leading_eigenvectors(information, min(dim, len(known) - 1)), most)


def _pmi_matrix(places: Tensor, size: int, window: int) -> Any:
    """Return the positive pointwise mutual information of words in a window, sparse [size, size]; None if it is 0.

    Args:
        places: number of the word at each position [N, L], -1 for words that do not count.
    """
    from scipy.sparse import coo_matrix, diags

    pairs = [torch.stack([places[:, :-step].flatten(), places[:, step:].flatten()]) for step in range(1, window + 1)]
    row, column = torch.cat([pair[:, (pair >= 0).all(0)] for pair in pairs], dim=1).numpy()
    together = coo_matrix((np.ones(len(row)), (row, column)), shape=(size, size))
    together = (together + together.T).tocsr()
    totals = np.asarray(together.sum(1)).ravel()
    inverse = diags(1 / np.maximum(totals, 1))
    ratio = (inverse @ together @ inverse * totals.sum()).tocoo()
    information = np.maximum(np.log(ratio.data), 0)
    found = coo_matrix((information, (ratio.row, ratio.col)), shape=ratio.shape).tocsr()
    found.eliminate_zeros()
    return found if found.nnz else None


def _leading_eigenvectors(matrix: Any, rank: int, rounds: int = 10) -> Tensor:
    """Return float32 [n, rank]: leading eigenvectors of a symmetric sparse matrix times the root of |eigenvalue|.

    Deterministic subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4).
    """
    basis = np.random.RandomState(0).standard_normal((matrix.shape[0], min(rank + 10, matrix.shape[0])))
    for _ in range(rounds):
        basis = np.linalg.qr(matrix @ basis)[0]
    values, vectors = np.linalg.eigh(basis.T @ (matrix @ basis))
    leading = np.argsort(-np.abs(values), kind="stable")[:rank]
    return torch.from_numpy((basis @ vectors[:, leading]) * np.sqrt(np.abs(values[leading]))).float()


def _nearest(table: Tensor, known: Tensor, vectors: Tensor, most: int) -> Tensor:
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    width = min(most, len(known) - 1)
    for begin in range(0, len(known), 1024):  # bounds memory
        # rounded, because the last bits may depend on the machine and decide ties
        part = (vectors[begin : begin + 1024] @ vectors.T).round(decimals=4)
        part[torch.arange(len(part)), torch.arange(begin, begin + len(part))] = -2.0  # exclude the word itself
        near, who = part.topk(width, dim=1)
        table[known[begin : begin + 1024], :width] = torch.where(near > 0, known[who], 0)
    return table


def synonym_ids(synonyms: Mapping[str, Iterable[str]], words: list[str], allowed: Tensor) -> Tensor:
    """Return int64 [len(words) + 2, most]: the `allowed` (bool by id) synonyms of each word id, padded with 0."""
    ids = {word: i for i, word in enumerate(words, start=1)}
    rows = [[ids[other] for other in synonyms.get(word, ()) if other in ids and allowed[ids[other]]] for word in words]
    table = torch.zeros(len(words) + 2, max([1, *map(len, rows)]), dtype=torch.int64)
    for i, row in enumerate(rows, start=1):
        table[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return table
