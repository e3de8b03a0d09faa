"""Writes the export formats: ONNX, torch's archive (pt2), and the shared library of AOTInductor."""

from collections.abc import Callable
from pathlib import Path

import torch

from lightning_modules.compat.torch import compile_aoti, require_cpp_compiler
from lightning_modules.compression.onnx_model import first_error_line, silence_output, strip_metadata
from lightning_modules.compression.optional_import import optional_import
from lightning_modules.config.errors import UserError

FILE_NAMES = {"onnx": "model.onnx", "pt2": "model.pt2", "aoti": "model.aoti.pt2"}


def write_format(form: str, program: torch.export.ExportedProgram, path: Path) -> None:
    """Write an exported program. Raises UserError if the format's library rejects it, or if a compiler is missing."""
    writers: dict[str, Callable[[torch.export.ExportedProgram, Path], None]]
    writers = {"onnx": _write_onnx, "pt2": _write_pt2, "aoti": _write_aoti}
    if form == "aoti":
        _require_compiler()
    try:
        with silence_output(), torch.no_grad():
            writers[form](program, path)
    except UserError:
        raise
    except Exception as error:  # exporters raise classes of many packages
        raise UserError(f"format={form}: the network cannot be exported: {first_error_line(error)}") from error


def onnx_bytes(program: torch.export.ExportedProgram) -> bytes:
    """The ONNX file with its weights; the input is called ``x``, the output ``scores``."""
    optional_import("onnxscript")
    with silence_output(), torch.no_grad():
        exported = torch.onnx.export(
            program, dynamo=True, verbose=False, external_data=False, input_names=["x"], output_names=["scores"]
        )
    assert exported is not None
    return strip_metadata(exported.model_proto)


def _write_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    path.write_bytes(onnx_bytes(program))


def _write_pt2(program: torch.export.ExportedProgram, path: Path) -> None:
    torch.export.save(program, path)


def _write_aoti(program: torch.export.ExportedProgram, path: Path) -> None:
    compile_aoti(program, str(path))


def _require_compiler() -> None:
    try:
        require_cpp_compiler()
    except Exception as error:
        raise UserError(
            "format=aoti compiles C++, and there is no compiler here: install g++ or set CXX, or choose format=onnx or pt2"
        ) from error
