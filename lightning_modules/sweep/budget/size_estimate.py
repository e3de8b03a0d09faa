"""How small a network becomes by zeros and few bits, estimated; and which sparsity makes it as small as is wanted."""

import math

FLOAT_BITS = 32
MAX_SPARSITY = 0.995


def bits_per_weight(sparsity: float, bits: float) -> float:
    """Bits that a weight takes in the file: its position's entropy, and `bits` where it is not zero."""
    if sparsity <= 0:
        return bits
    return (1 - sparsity) * bits - sum(p * math.log2(p) for p in (sparsity, 1 - sparsity))


def size_ratio(sparsity: float, bits: float) -> float:
    """How many times smaller than as float32 the weights are; names, scales and other tensors are left out."""
    return FLOAT_BITS / bits_per_weight(sparsity, bits)


def sparsity_for(ratio: float, bits: float) -> float:
    """The least sparsity with which the weights are so many times smaller; 0 where `bits` alone do it, at most 0.995."""
    if size_ratio(0.0, bits) >= ratio:
        return 0.0
    low, high = 1 / (1 + 2**bits), MAX_SPARSITY  # up to `low` the positions cost more than the zeros save
    if size_ratio(high, bits) <= ratio:
        return high
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (middle, high) if size_ratio(middle, bits) < ratio else (low, middle)
    return round(high, 4)


def max_bits_without_zeros(ratio: float) -> int:
    """The most bits, 8 at most, that alone make the weights so many times smaller; less than 1: zeros are needed too."""
    return min(8, math.floor(FLOAT_BITS / ratio))


def first_bits(ratio: float) -> int:
    """5, as for the fully connected layers of Deep Compression (Han et al. 2016); more where so many do without a zero."""
    return max(5, max_bits_without_zeros(ratio))
