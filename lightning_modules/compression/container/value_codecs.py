"""Codecs of a tensor's parts: plain values, and the positions of kept entries."""

from collections.abc import Callable
from typing import Any

import numpy as np

from lightning_modules.compression.container.symbol_codecs import (
    MAX_ANS_SYMBOLS,
    Buffer,
    decode_ans_words,
    decode_symbols,
    encode_ans_words,
    encode_symbols,
    pick_smallest,
    zstd_compress,
    zstd_decompress,
)

Streams = list[list[Any]]  # [codec, bytes] of each stream
Take = Callable[[int], Buffer]  # returns the next bytes
_SKIP = 255  # a gap symbol: this many zeros that are not followed by a kept entry


# --- plain values: the bytes at each place of an entry are one sequence (exponents repeat, mantissas do not) ----------
def encode_plain(rows: np.ndarray) -> tuple[Streams, bytes]:
    """Bytes [n, size] -> one stream for each byte position, or one stream of whole entries if that is smaller; the data."""
    coded = [encode_symbols(np.ascontiguousarray(plane), 256) for plane in rows.T]
    streams, data = [[coder, len(data)] for coder, data in coded], b"".join(data for _, data in coded)
    whole = zstd_compress(rows.tobytes())
    return (streams, data) if len(data) <= len(whole) else ([["whole zstd", len(whole)]], whole)


def decode_plain(streams: Streams, take: Take, n: int, size: int) -> np.ndarray:
    """Decode to uint8 [n, size]. Raises ValueError for invalid data, KeyError for an unknown codec."""
    if len(streams) == 1 and streams[0][0] == "whole zstd":
        return np.frombuffer(zstd_decompress(take(streams[0][1]), n * size), np.uint8).reshape(n, size)
    if len(streams) != size:
        raise ValueError(f"{len(streams)} streams for entries of {size} bytes")
    rows = np.empty((n, size), np.uint8)
    for place, (coder, length) in enumerate(streams):
        rows[:, place] = decode_symbols(coder, take(length), n, 256)
    return rows


# --- positions: a bitmask, or the gaps between kept entries (Han et al. 2016, section 2) ---------------------------


def encode_positions(kept: np.ndarray) -> tuple[list[str | int], bytes]:
    """Bool [n] -> ``[how, kept entries, gaps]`` and the data."""
    n, count = len(kept), int(np.count_nonzero(kept))
    if count in (0, n):
        return ["all" if count else "none", count, 0], b""
    gaps, bits = _to_gaps(np.flatnonzero(kept)), np.packbits(kept)
    coders = {"gaps": encode_symbols(gaps, 256), "bitmask": encode_symbols(bits, 256)}
    candidates = [(f"{form} {coder}", data) for form, (coder, data) in coders.items()]
    if len(gaps) <= MAX_ANS_SYMBOLS:
        candidates.append(("gaps geometric", encode_ans_words(gaps, _geometric_frequencies(count / n))))
    how, data = pick_smallest(candidates, len(gaps))
    return [how, count, len(gaps)], data


def decode_positions(how: str, count: int, n_symbols: int, data: Buffer, n: int) -> np.ndarray:
    """The positions of the kept entries, ascending int64 [count].

    Raises ValueError for invalid data, KeyError for an unknown codec.
    """
    form, _, coder = how.partition(" ")
    if how == "all" or how == "none":
        positions = np.arange(n if how == "all" else 0)
    elif form == "bitmask":
        bits = decode_symbols(coder, data, -(-n // 8), 256)
        positions = np.flatnonzero(np.unpackbits(bits, count=n).view(bool))
    elif form == "gaps" and count <= n_symbols <= count + n // _SKIP:
        positions = _from_gaps(_decode_gaps(coder, data, n_symbols, count / n))
    else:
        raise KeyError(how)
    if len(positions) != count or (count and positions[-1] >= n):
        raise ValueError(f"{len(positions)} positions for {count} of {n} entries")
    return positions


def _to_gaps(positions: np.ndarray) -> np.ndarray:
    """The number of zeros before each kept entry, uint8; longer gaps start with `_SKIP` symbols."""
    zeros = np.diff(positions, prepend=-1) - 1
    skips = zeros // _SKIP
    gaps = np.full(len(zeros) + int(skips.sum()), _SKIP, np.uint8)
    gaps[np.cumsum(skips + 1) - 1] = zeros % _SKIP
    return gaps


def _decode_gaps(coder: str, data: Buffer, n_symbols: int, density: float) -> np.ndarray:
    if coder == "geometric":
        return decode_ans_words(data, _geometric_frequencies(density), n_symbols)
    return decode_symbols(coder, data, n_symbols, 256)


def _from_gaps(gaps: np.ndarray) -> np.ndarray:
    ends = gaps != _SKIP
    steps = gaps.astype(np.int64)
    steps += ends
    return np.cumsum(steps)[ends] - 1


def _geometric_frequencies(density: float) -> np.ndarray:
    """Frequencies of the gap symbols [256] if each entry is kept with probability `density`; the last is `_SKIP`."""
    left = np.cumprod(np.full(_SKIP, 1 - density))  # multiplications only: the same floats on every machine
    chances = np.concatenate([[1.0], left]) * np.concatenate([np.full(_SKIP, density), [1.0]])
    return np.round(chances * 2.0**32)  # integers, whose sum does not depend on the order


# --- bitmask+int8+zstd: what earlier versions wrote for masked int8, read only ---------------------------------------
def decode_bitmask_int8(data: Buffer, n: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The kept entries' positions and int8 values, both [count], of a frame: a bit for each entry, then the values.

    Raises ValueError for any other frame.
    """
    split = -(-n // 8)
    plain = np.frombuffer(zstd_decompress(data, split + count), np.uint8)
    positions = np.flatnonzero(np.unpackbits(plain[:split], count=n).view(bool))
    if len(positions) != count:
        raise ValueError(f"expected {count} kept entries, got {len(positions)}")
    return positions, plain[split:].view(np.int8)
