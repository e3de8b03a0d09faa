"""Similarity search: all pairs above a threshold by blocked products (memory is not quadratic), and k-NN distances."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_modules.quality.embedding import Embedding, WordEmbedding

TILE_SIZE = 4096  # samples on each side of a block: 64 MB of float32
MAX_PARTNERS = 16  # partners kept per sample; from then on one per block, for the case that thousands are alike
MAX_REFERENCE = 10_000  # random samples among which the k-th nearest neighbour is searched
FLOAT32_SLACK = 1e-4  # tolerance for float32 rounding


@dataclass(frozen=True)
class SimilarPairs:
    """Pairs int64 [P, 2] (first < second) with their similarity [P], and each sample's highest similarity [N].

    Similarity is the cosine, or for tables and series 1 - |a-b|²/2m, where m is the mean squared norm: 1 for equal rows,
    0 for the expected distance of random rows. `nearest` is an upper bound if components were dropped.
    """

    pairs: np.ndarray
    similarity: np.ndarray
    nearest: np.ndarray


def find_similar_pairs(
    embedding: Embedding | WordEmbedding, threshold: float, among: np.ndarray | None = None
) -> SimilarPairs:
    """Find all pairs with at least this similarity; at most about MAX_PARTNERS per sample.

    Args:
        among: positions to compare; default all. `nearest` is NaN for the others.
    """
    count = len(embedding)
    chosen = np.arange(count) if among is None else np.asarray(among)
    if isinstance(embedding, WordEmbedding):
        pairs, similarity, best = _search_words(embedding, threshold, chosen)
    else:
        pairs, similarity, best = _search(embedding, threshold, chosen)
    nearest = np.full(count, np.nan, np.float32)
    nearest[chosen] = best
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return SimilarPairs(pairs[order], similarity[order], nearest)


def _factor_matrices(embedding: Embedding, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return two matrices whose row products are the similarity (or its upper bound)."""
    x, squares = embedding.vectors[chosen], embedding.squares[chosen][:, None]
    if not embedding.by_distance:
        unit = x / squares.sqrt().clamp_min(1e-12)
        return unit, unit
    x, half, one = x / embedding.scale**0.5, squares / (2 * embedding.scale), torch.ones_like(squares)
    return torch.cat([x, 1 - half, one], 1), torch.cat([x, one, -half], 1)


def _search(embedding: Embedding, threshold: float, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    index = torch.from_numpy(chosen)
    left, right = _factor_matrices(embedding, index)
    best = torch.full((len(index),), -torch.inf)
    partners = torch.zeros(len(index), dtype=torch.int64)
    found = []
    for i in range(0, len(index), TILE_SIZE):
        for j in range(i, len(index), TILE_SIZE):
            block = left[i : i + TILE_SIZE] @ right[j : j + TILE_SIZE].T
            if i == j:
                block.fill_diagonal_(-torch.inf)
            rows, columns = best[i : i + TILE_SIZE], best[j : j + TILE_SIZE]
            torch.maximum(rows, block.amax(1), out=rows)
            torch.maximum(columns, block.amax(0), out=columns)
            places = _top_entries(block, threshold - FLOAT32_SLACK, partners[i : i + TILE_SIZE] >= MAX_PARTNERS)
            partners[i : i + TILE_SIZE] += places[:, 0].bincount(minlength=len(rows))
            found.append(places + torch.tensor([[i, j]]))
    pairs = torch.cat(found) if found else torch.zeros(0, 2, dtype=torch.int64)
    pairs = index[pairs.sort(1).values.unique(dim=0)]
    similarity = _exact_similarity(embedding, pairs)
    kept = similarity >= threshold
    return pairs[kept].numpy(), similarity[kept].numpy(), best.clamp(-1, 1).numpy()


def _top_entries(block: Tensor, threshold: float, full: Tensor) -> Tensor:
    """Return the positions [P, 2] of entries above the threshold: the MAX_PARTNERS highest per row, one for a `full` row."""
    rows = (block.amax(1) >= threshold).nonzero().squeeze(1)
    values, columns = block[rows].topk(min(MAX_PARTNERS, block.shape[1]), dim=1)
    values[full[rows], 1:] = -torch.inf
    row, place = (values >= threshold).nonzero(as_tuple=True)
    return torch.stack([rows[row], columns[row, place]], 1)


def _exact_similarity(embedding: Embedding, pairs: Tensor) -> Tensor:
    """Return the similarity of pairs by their full features, float64 [P]."""
    found = [torch.zeros(0, dtype=torch.float64)]
    for part in pairs.split(2048) if len(pairs) else ():
        a, b = embedding.rows(part[:, 0]).double(), embedding.rows(part[:, 1]).double()
        if embedding.by_distance:
            found.append(1 - (a - b).square().sum(1) / (2 * embedding.scale))
        else:
            found.append(torch.nn.functional.cosine_similarity(a, b))
    return torch.cat(found)


def _search_words(
    embedding: WordEmbedding, threshold: float, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    weights = embedding.weights[chosen]
    size = max(1, min(TILE_SIZE, 16_000_000 // max(len(chosen), 1)))
    best = np.zeros(len(chosen), np.float32)
    pairs, similarity = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
    for start in range(0, len(chosen), size):
        block = (weights[start : start + size] @ weights.T).tocoo()
        row, column = block.row + start, block.col
        other = row != column
        np.maximum.at(best, row[other], block.data[other].astype(np.float32))
        kept = (row < column) & (block.data >= threshold - FLOAT32_SLACK)
        pairs.append(np.stack([chosen[row[kept]], chosen[column[kept]]], 1))
        similarity.append(block.data[kept].astype(np.float64))
    return np.concatenate(pairs), np.concatenate(similarity).clip(max=1), best.clip(max=1)


def knn_distance(embedding: Embedding | WordEmbedding, k: int = 5) -> np.ndarray:
    """Return 1 - similarity to the k-th nearest of up to MAX_REFERENCE random samples, [N] (Sugiyama & Borgwardt 2013)."""
    count = len(embedding)
    drawn = np.sort(np.random.RandomState(0).permutation(count)[:MAX_REFERENCE])
    k = min(k, len(drawn) - 1)
    if k < 1:
        return np.zeros(count)
    column = np.full(count, -1)
    column[drawn] = np.arange(len(drawn))
    found = []
    words = isinstance(embedding, WordEmbedding)
    left, right = (None, None) if words else _factor_matrices(embedding, torch.arange(count))  # type: ignore[arg-type]
    for index in np.array_split(np.arange(count), -(-count // 1024)):
        if isinstance(embedding, WordEmbedding):
            block = torch.from_numpy((embedding.weights[index] @ embedding.weights[drawn].T).toarray()).float()
        else:
            assert left is not None and right is not None
            block = left[index] @ right[drawn].T
        own = column[index] >= 0
        block[np.flatnonzero(own), column[index][own]] = -torch.inf
        found.append(1 - block.topk(k, dim=1).values[:, -1])
    return torch.cat(found).numpy().astype(np.float64)
