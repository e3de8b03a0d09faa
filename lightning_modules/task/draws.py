"""What chance gives in training: functions of (seed, epoch or step, rank) alone, so that a resumed run draws the same."""

import random

import numpy as np
import torch


def mix(seed: int, step: int, rank: int) -> int:
    """A 63-bit number of three: neighbours in any of them give unrelated streams (splitmix64's finaliser)."""
    z = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + rank * 0x8CB92BA72F3D8DD7) & (2**64 - 1)
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (z ^ (z >> 31)) & (2**63 - 1)


def seed_epoch(seed: int, epoch: int, rank: int, device: torch.device) -> None:
    """Seed the global generators of Python, NumPy and torch, from which dropout and foreign code draw."""
    number = mix(seed, epoch, rank) % 2**32
    random.seed(number)
    np.random.seed(number)
    if device.type == "cpu":  # torch.manual_seed seeds accelerators too, and costs a millisecond where none is
        torch.default_generator.manual_seed(number)
    else:
        torch.manual_seed(number)
