"""Random seeds of training, derived from (seed, epoch or step, rank) only, so that a resumed run repeats them."""

import random

import numpy as np
import torch


def derive_seed(seed: int, step: int, rank: int) -> int:
    """Hash three integers to a 63-bit seed; neighbouring values give unrelated streams (splitmix64's finaliser)."""
    z = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + rank * 0x8CB92BA72F3D8DD7) & (2**64 - 1)
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (z ^ (z >> 31)) & (2**63 - 1)


def seed_epoch(seed: int, epoch: int, rank: int, device: torch.device) -> None:
    """Seed the global generators of Python, NumPy and torch, which dropout and third-party code use."""
    number = derive_seed(seed, epoch, rank) % 2**32
    random.seed(number)
    np.random.seed(number)
    if device.type == "cpu":  # torch.manual_seed also seeds accelerators, which takes a millisecond
        torch.default_generator.manual_seed(number)
    else:
        torch.manual_seed(number)
