"""The compressed checkpoint: a safetensors file of encoded tensors, written atomically and read without unpickling.

The format is described in ``lightning_modules/compression/README.md``.
"""

from lightning_modules.compression.container.entropy_report import StoredTensor, WriteReport
from lightning_modules.compression.container.read import Contents, read, read_header
from lightning_modules.compression.container.write import write

__all__ = ["Contents", "StoredTensor", "WriteReport", "read", "read_header", "write"]
