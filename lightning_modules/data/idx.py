"""The idx format of the MNIST family, plain or gzipped (the format is described on LeCun's MNIST page)."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_modules.errors import UserError


def read_idx(path: Path) -> Tensor:
    """Return the uint8 tensor in an idx file.

    Raises:
        UserError: the file is cut off, damaged or of another kind.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}): get the file again") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or not content[3]:
        raise UserError(f"{path} is no idx file of bytes: it begins with {content[:4].hex(' ')}, not with 00 00 08 0N")
    start = 4 + 4 * content[3]
    shape = tuple(int.from_bytes(content[place : place + 4], "big") for place in range(4, start, 4))
    if len(content) != start + math.prod(shape):
        raise UserError(
            f"{path} is damaged: its header announces {'x'.join(map(str, shape))} values, which makes "
            f"{start + math.prod(shape)} bytes, but it holds {len(content)}: get the file again"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())
