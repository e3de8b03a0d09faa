"""Loads an exported file in its runtime; MLflow serves it the same way."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_modules.compat.torch import load_aoti
from lightning_modules.compression.onnx_model import inference_session
from lightning_modules.config.errors import UserError
from lightning_modules.data.table_input import TableInput, parse_model_input
from lightning_modules.export.formats import FILE_NAMES
from lightning_modules.model.checksum import check_archive

Predictor = Callable[[Tensor], Tensor]


def load_exported(path: Path) -> Predictor:
    """The function that maps raw samples [B, …] to scores, on the CPU, with as many threads as torch uses now.

    A library of AOTInductor is native code: load only files that you trust. The other formats contain no code.

    Raises UserError for another kind of file, a damaged one, or one with pickled objects.
    """
    forms = {name: form for form, name in FILE_NAMES.items()}
    if path.name not in forms:
        raise UserError(f"{path} is not an exported model; expected a file named {', '.join(FILE_NAMES.values())}")
    try:
        return _load(forms[path.name], path)
    except (OSError, RuntimeError, ValueError, KeyError, AssertionError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged or was written by another version: {str(error).splitlines()[0]}") from error


def _load(form: str, path: Path) -> Predictor:
    if form == "onnx":
        session = inference_session(path.read_bytes())
        name = session.get_inputs()[0].name
        return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])
    with path.open("rb") as file:
        check_archive(file)
    if form == "aoti":
        package = load_aoti(str(path))
        return lambda x: package(x)
    refuse_pickles(path)
    module = torch.export.load(path).module()
    return lambda x: module(x)


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
    """The object that MLflow calls: ``predict`` maps raw samples to an array of scores."""

    def __init__(self, run: Predictor, table: TableInput | None = None) -> None:
        self.run, self.table = run, table

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> np.ndarray:
        """Predict an array or a data frame; for a model trained on a table, columns are matched by name."""
        x = parse_model_input(model_input, self.table)
        with torch.inference_mode():
            return self.run(x).numpy()


def _load_pyfunc(path: str) -> ExportedModel:
    """Entry point for MLflow: `path` is the exported file in the model's folder."""
    from mlflow.models import Model

    described: Any = Model.load(str(Path(path).parent / "MLmodel"))
    return ExportedModel(load_exported(Path(path)), TableInput.of(described.metadata or {}))
