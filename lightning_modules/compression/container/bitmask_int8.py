"""The codec ``bitmask+int8+zstd``, whole: which entries are kept, a bit each, and their int8 values, in one zstd frame."""

import numpy as np

from lightning_modules.compression.container.zstd_frame import Buffer, zstd_compress, zstd_decompress


def encode(kept: np.ndarray, q: np.ndarray) -> bytes:
    """Bool [n], int8 of the kept entries [count] -> a frame of ``ceil(n / 8) + count`` bytes.

    The first entry is the highest bit of the first byte.
    """
    return zstd_compress(np.packbits(kept).tobytes() + q.tobytes())


def decode(data: Buffer, n: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Back to the kept entries' positions [count] and int8 values [count]. Raises ValueError for any other frame."""
    split = -(-n // 8)
    plain = np.frombuffer(zstd_decompress(data, split + count), np.uint8)
    positions = np.flatnonzero(np.unpackbits(plain[:split], count=n).view(bool))
    if len(positions) != count:
        raise ValueError(f"{len(positions)} entries are kept, not {count}")
    return positions, plain[split:].view(np.int8)
