"""Loads an exported file in its runtime; MLflow serves it the same way."""

import functools
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_modules.compat.torch import load_aoti
from lightning_modules.compression.onnx_model import inference_session
from lightning_modules.config.errors import UserError, first_line
from lightning_modules.data.table_input import TableInput, parse_model_input
from lightning_modules.export.formats import FILE_NAMES
from lightning_modules.model.checksum import check_archive
from lightning_modules.run.named_forward import as_arrays

Predictor = Callable[..., Any]  # raw samples -> scores; of another module: inputs -> outputs by name


def load_exported(path: Path) -> Predictor:
    """The function that maps raw samples [B, …] to scores (see `Predictor`), on the CPU, with as many threads as torch uses now.

    A library of AOTInductor is native code: load only files that you trust. The other formats contain no code.

    Raises UserError for another kind of file, a damaged one, or one with pickled objects.
    """
    forms = {name: form for form, name in FILE_NAMES.items()}
    if path.name not in forms:
        raise UserError(f"{path} is not an exported model; expected a file named {', '.join(FILE_NAMES.values())}")
    try:
        return _load(forms[path.name], path)
    except (OSError, RuntimeError, ValueError, KeyError, AssertionError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged or was written by another version: {first_line(error)}") from error


def _load(form: str, path: Path) -> Predictor:
    if form == "onnx":
        session = inference_session(path.read_bytes())
        names, outputs = ([value.name for value in side] for side in (session.get_inputs(), session.get_outputs()))
        return functools.partial(_run_onnx, session, names, outputs)
    with path.open("rb") as file:
        check_archive(file)
    if form == "aoti":
        package = load_aoti(str(path))
        return lambda *inputs: package(*inputs)
    refuse_pickles(path)
    module = torch.export.load(path).module()
    return lambda *inputs: module(*inputs)


def _run_onnx(session: Any, names: list[str], outputs: list[str], *inputs: Tensor) -> Any:
    arrays = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
    found = {name: torch.from_numpy(array) for name, array in zip(outputs, arrays, strict=True)}
    return found["scores"] if outputs == ["scores"] else found


def refuse_pickles(path: Path) -> None:
    """Raise UserError if loading a pt2 archive would unpickle more than tensors."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        configs = [json.loads(archive.read(name)) for name in names if name.endswith("_config.json")]
        form = [archive.read(name) for name in names if name.count("/") == 1 and name.endswith("/archive_format")]
        inputs = [archive.read(name) for name in names if "/data/sample_inputs/" in name]
    entries = [entry for config in configs for entry in config.get("config", {}).values()]
    old = any(name.endswith(".pt") and "/data/sample_inputs/" not in name for name in names)
    kinds = ("weight_", "tensor_")
    pickled = any(e["use_pickle"] or not e["path_name"].startswith(kinds) for e in entries)
    if form != [b"pt2"] or old or pickled or len(set(names)) < len(names) or not all(map(_is_pickle_free, inputs)):
        raise UserError(f"{path} contains pickled objects, which Touchstone does not load")


def _is_pickle_free(content: bytes) -> bool:
    """Whether torch loads the file without unpickling; otherwise `torch.export.load` would unpickle it."""
    try:
        check_archive(io.BytesIO(content))
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception:  # the reader raises many kinds
        return not content
    return True


class ExportedModel:
    """The object that MLflow calls: ``predict`` maps raw samples to an array of scores, or arrays by name to others."""

    def __init__(self, run: Predictor, table: TableInput | None = None, names: Sequence[str] = ()) -> None:
        self.run, self.table, self.names = run, table, names

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """Predict an array or a data frame; for a model trained on a table, columns are matched by name."""
        arrays = [model_input[name] for name in self.names]
        inputs = [torch.as_tensor(np.asarray(array)) for array in arrays] or [
            parse_model_input(model_input, self.table)
        ]
        with torch.inference_mode():
            found = self.run(*inputs)
        return as_arrays(found) if isinstance(found, dict) else found.numpy()


def _load_pyfunc(path: str) -> ExportedModel:
    """Entry point for MLflow: `path` is the exported file in the model's folder."""
    from mlflow.models import Model

    described: Any = Model.load(str(Path(path).parent / "MLmodel"))
    inputs = described.signature.inputs
    names = inputs.input_names() if inputs and inputs.has_input_names() else ()
    return ExportedModel(load_exported(Path(path)), TableInput.of(described.metadata or {}), names)
