"""The idx file format of the MNIST family, plain or gzipped (described on LeCun's MNIST page)."""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_modules.config.errors import UserError
from lightning_modules.data.size_checks import require_plausible_gzip


def read_idx(path: Path) -> Tensor:
    """Return the uint8 tensor in an idx file. Raises UserError if the file is damaged or of another format."""
    open_file: Any = gzip.open if path.suffix == ".gz" else Path.open
    try:
        with open_file(path, "rb") as file:
            start = file.read(4)
            if len(start) < 4 or start[:3] != b"\x00\x00\x08" or not start[3]:
                raise UserError(
                    f"{path} is not an idx file of bytes: it starts with {start.hex(' ')}, expected 00 00 08 0N"
                )
            lengths = np.frombuffer(file.read(4 * start[3]), ">u4").tolist()
            size = math.prod(lengths)
            require_plausible_gzip(path, size)
            content = file.read(size + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}): download it again") from error
    if len(lengths) != start[3] or len(content) != size:
        raise UserError(
            f"{path} is damaged: its header declares {'x'.join(map(str, lengths))} bytes of data, but it contains "
            f"{'more' if len(content) > size else len(content)}: download it again"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8).reshape(lengths).copy())
