"""Which entries of a tensor are kept, coded as a bitmask or as the gaps between them (Han et al. 2016, section 2)."""

import numpy as np

from lightning_modules.compression.container import symbols
from lightning_modules.compression.container.zstd_frame import Buffer

_SKIP = 255  # a symbol of the gaps: that many entries are zero, and none is kept behind them


def encode(kept: np.ndarray) -> tuple[list[str | int], bytes]:
    """Bool [n] -> ``[how, kept entries, gaps]`` and the data."""
    n, count = len(kept), int(np.count_nonzero(kept))
    if count in (0, n):
        return ["all" if count else "none", count, 0], b""
    gaps, bits = _to_gaps(np.flatnonzero(kept)), np.packbits(kept)
    coders = {"gaps": symbols.encode(gaps, 256), "bitmask": symbols.encode(bits, 256)}
    candidates = [(f"{form} {coder}", data) for form, (coder, data) in coders.items()]
    if len(gaps) <= symbols.MAX_ANS_SYMBOLS:
        candidates.append(("gaps geometric", symbols.encode_ans_words(gaps, _geometric_frequencies(count / n))))
    how, data = symbols.pick_smallest(candidates, len(gaps))
    return [how, count, len(gaps)], data


def decode(how: str, count: int, n_symbols: int, data: Buffer, n: int) -> np.ndarray:
    """Back to the positions of the kept entries, ascending int64 [count].

    Raises ValueError where the data does not hold that, KeyError for a codec not known.
    """
    form, _, coder = how.partition(" ")
    if how == "all" or how == "none":
        positions = np.arange(n if how == "all" else 0)
    elif form == "bitmask":
        bits = symbols.decode(coder, data, -(-n // 8), 256)
        positions = np.flatnonzero(np.unpackbits(bits, count=n).view(bool))
    elif form == "gaps" and count <= n_symbols <= count + n // _SKIP:
        positions = _from_gaps(_decode_gaps(coder, data, n_symbols, count / n))
    else:
        raise KeyError(how)
    if len(positions) != count or (count and positions[-1] >= n):
        raise ValueError(f"{len(positions)} positions for {count} of {n} entries")
    return positions


def _to_gaps(positions: np.ndarray) -> np.ndarray:
    """Zeros in front of each kept entry, uint8; 255 of them that are followed by more are a symbol of their own."""
    zeros = np.diff(positions, prepend=-1) - 1
    skips = zeros // _SKIP
    gaps = np.full(len(zeros) + int(skips.sum()), _SKIP, np.uint8)
    gaps[np.cumsum(skips + 1) - 1] = zeros % _SKIP
    return gaps


def _decode_gaps(coder: str, data: Buffer, n_symbols: int, density: float) -> np.ndarray:
    if coder == "geometric":
        return symbols.decode_ans_words(data, _geometric_frequencies(density), n_symbols)
    return symbols.decode(coder, data, n_symbols, 256)


def _from_gaps(gaps: np.ndarray) -> np.ndarray:
    ends = gaps != _SKIP
    steps = gaps.astype(np.int64)
    steps += ends
    return np.cumsum(steps)[ends] - 1


def _geometric_frequencies(density: float) -> np.ndarray:
    """How often each gap occurs where each entry is kept with this chance; [256], the last one is the skip."""
    left = np.cumprod(np.full(_SKIP, 1 - density))  # by multiplication alone: the same floats on every machine
    chances = np.concatenate([[1.0], left]) * np.concatenate([np.full(_SKIP, density), [1.0]])
    return np.round(chances * 2.0**32)  # whole numbers: their sum does not hang on its order
