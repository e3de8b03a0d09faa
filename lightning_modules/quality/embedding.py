"""Embeddings of samples for similarity: PCA of pixels, series and columns, log-mel of audio, TF-IDF of texts."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from sklearn.feature_extraction.text import TfidfTransformer
from torch import Tensor

from lightning_modules.config.errors import UserError
from lightning_modules.data.float64_scaling import Float64Affine
from lightning_modules.quality.samples import Samples
from lightning_modules.zoo.data.log_mel import POWER_FLOOR, as_float_audio, mel_filters

MAX_SIDE = 32  # pixels; larger images are downsampled
WINDOW, BANDS, FRAMES = 512, 32, 24  # of spectrograms
MAX_FIT_SAMPLES = 8000  # samples on which PCA is fitted
DISTANCE_DOMAINS = ("table", "series")  # compared by distance; others by the cosine


@dataclass(frozen=True)
class Embedding:
    """N samples as dense vectors.

    Attributes:
        vectors: float32 [N, K]: principal components; if K < D, the last one is the norm of the residual.
        exact: all components are kept (K = D).
        rows: index [n] -> float32 [n, D]: the full features.
        by_distance: compare by distance instead of cosine.
        squares: float32 [N]: squared norms of the full features.
    """

    vectors: Tensor
    exact: bool
    rows: Callable[[Tensor], Tensor]
    by_distance: bool
    squares: Tensor

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def scale(self) -> float:
        """Mean squared norm: half the expected squared distance of two random samples."""
        return max(float(self.squares.double().mean()), 1e-12)

    def matrix(self) -> np.ndarray:
        """Return the components for a classifier, with mean squared norm 1."""
        kept = self.vectors if self.exact else self.vectors[:, :-1]
        return (kept / self.scale**0.5).numpy()


@dataclass(frozen=True)
class WordEmbedding:
    """N texts as TF-IDF rows of norm 1 (CSR [N, V]); an empty text is a row of zeros."""

    weights: sparse.csr_matrix

    def __len__(self) -> int:
        return int(self.weights.shape[0])

    def matrix(self) -> sparse.csr_matrix:
        """Return the features for a classifier."""
        return self.weights


def embed(samples: Samples, components: int = 128) -> Embedding | WordEmbedding | None:
    """Embed every sample; None for interactions (ids have no distance).

    Raises UserError if no sample has a finite value.
    """
    if samples.domain == "interactions":
        return None
    if samples.domain == "text":
        return embed_ids(torch.cat([samples.read(index) for index in samples.chunks()]))
    read = _build_flatten(samples)
    by_column = samples.domain == "table"
    by_distance = samples.domain in DISTANCE_DOMAINS
    return embed_rows(lambda index: read(samples.read(index)), len(samples), components, by_column, by_distance)


def _build_flatten(samples: Samples) -> Callable[[Tensor], Tensor]:
    if samples.domain == "audio" and len(samples.shape) == 1:
        rate = int(getattr(samples.data, "sample_rate", 16000))
        return lambda x: log_mel_features(x, rate).flatten(1)
    if samples.domain == "image" and max(samples.shape[-2:]) > MAX_SIDE:
        height, width = (min(side, MAX_SIDE) for side in samples.shape[-2:])
        return lambda x: F.adaptive_avg_pool2d(x.float(), (height, width)).flatten(1)
    scaled = getattr(samples.data, "preprocess", None)
    if isinstance(scaled, Float64Affine) and samples.dtype == torch.float64:
        return lambda x: scaled(x).flatten(1)
    return lambda x: x.float().flatten(1)


def embed_rows(
    read: Callable[[Tensor], Tensor], count: int, components: int, by_column: bool = False, by_distance: bool = False
) -> Embedding:
    """Center the rows (`by_column`: standardize them) and keep their principal components.

    With residuals r and s of two rows, p·q + |r||s| is an upper bound of their product (Cauchy-Schwarz): a search in the
    vectors misses no pair.
    """
    shift, scale = _moments(read, count)
    if not by_column:
        scale = torch.ones_like(scale)

    def rows(index: Tensor) -> Tensor:
        return ((read(index) - shift) / scale).nan_to_num(0.0, 0.0, 0.0)  # missing values are the mean

    exact = len(shift) <= components
    basis = None if exact else _basis(rows, count, components)
    found, squares = [], []
    for index in torch.arange(count).split(1024):
        x = rows(index)
        squares.append(x.square().sum(1))
        if basis is not None:
            kept = x @ basis
            x = torch.cat([kept, (squares[-1] - kept.square().sum(1)).clamp_min(0).sqrt()[:, None]], 1)
        found.append(x)
    return Embedding(torch.cat(found), exact, rows, by_distance, torch.cat(squares))


def _moments(read: Callable[[Tensor], Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Return mean and std [D] of each column's finite values; 0 and 1 if there are none, std 1 if all are equal."""
    total = torch.zeros(3)
    for index in torch.arange(count).split(1024):
        x = read(index).double()
        known = x.isfinite()
        x = x.nan_to_num(0.0, 0.0, 0.0)
        part = torch.stack([known.sum(0).double(), x.sum(0), x.square().sum(0)])
        total = part if total.ndim == 1 else total + part
    if not total[0].any():
        raise UserError("samples have no finite values: nothing can be compared")
    mean = total[1] / total[0].clamp_min(1)
    variance = (total[2] / total[0].clamp_min(1) - mean.square()).clamp_min(0)
    std = torch.where(variance > 1e-12 * mean.square(), variance, 1.0).sqrt()
    return mean.float(), torch.where(std > 0, std, 1.0).float()


def _basis(rows: Callable[[Tensor], Tensor], count: int, components: int) -> Tensor:
    """Return the principal directions of up to MAX_FIT_SAMPLES samples, orthonormal [D, components]."""
    chosen = np.random.RandomState(0).permutation(count)[:MAX_FIT_SAMPLES]
    x = torch.cat([rows(index) for index in torch.from_numpy(np.sort(chosen)).split(1024)])
    if x.shape[1] <= 4096:
        return torch.linalg.eigh(x.T @ x).eigenvectors[:, -components:].contiguous()
    own = np.random.RandomState(1).standard_normal((x.shape[1], components + 10))  # not the global generator
    sketch = torch.from_numpy(own).float()  # randomised range finder, Halko et al. 2011, algorithm 4.4
    for _ in range(3):
        sketch = torch.linalg.qr(x.T @ (x @ sketch)).Q
    return sketch[:, :components].contiguous()


def log_mel_features(x: Tensor, rate: int) -> Tensor:
    """Return the log power of waveforms [n, T] in BANDS mel bands and at most FRAMES frames: float32 [n, BANDS, frames]."""
    wave = F.pad(as_float_audio(x), (0, max(0, WINDOW - x.shape[-1])))
    bins = torch.stft(wave, WINDOW, WINDOW // 2, window=torch.hann_window(WINDOW), center=False, return_complex=True)
    bands = mel_filters(rate, WINDOW, BANDS).T @ bins.abs().square()
    return (F.adaptive_avg_pool1d(bands, min(FRAMES, bands.shape[-1])) + POWER_FLOOR).log()


def embed_ids(ids: Tensor) -> WordEmbedding:
    """Embed token ids [N, T] (0 is padding) by TF-IDF."""
    row, column = ids.nonzero(as_tuple=True)
    words = ids[row, column].numpy()
    shape = (len(ids), int(ids.max()) + 1 if ids.numel() else 1)
    counts = sparse.csr_matrix((np.ones(len(words), np.float32), (row.numpy(), words)), shape=shape)
    return WordEmbedding(TfidfTransformer(sublinear_tf=True).fit_transform(counts))
