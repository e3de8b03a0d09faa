"""Serve a checkpoint or a compressed file as an MLflow pyfunc model: raw samples in, probabilities or values out.

Longer than 200 lines: one model class for tasks of ours, other modules and compressed files.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.utils import get_method

from lightning_modules.compat.mlflow import save_example
from lightning_modules.config.errors import UserError, first_line, suggest
from lightning_modules.config.plain import PlainDict
from lightning_modules.data.table_input import TableInput, parse_model_input
from lightning_modules.run.lightning_task import is_module_spec, load_module_from_spec
from lightning_modules.run.named_forward import ModelValues, NamedForward, require_same_module_outputs
from lightning_modules.task.supervised import Supervised
from lightning_modules.task.task_spec import load_task_from_spec, require_same_outputs
from lightning_modules.tracking.artifacts import download_model, local_folder
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.store import Store, find_run
from lightning_modules.tracking.tags import MODEL_ID_TAG

# Weight files of a logged model, in order of preference.
WEIGHTS = ("best.ckpt", "last_weights.ckpt", "model.compressed.safetensors")


def load_module(path: Path) -> pl.LightningModule:
    """Rebuild the task of a checkpoint or of a compressed file, in evaluation mode, without its data.

    Raises UserError if the file is damaged, or if its config names a target that is not allowed.
    """
    if path.suffix == ".safetensors":
        return get_method("lightning_modules.compression.artifact.load_compressed")(path)
    checkpoint = read_checkpoint(path)
    spec = checkpoint.get("passport")
    if spec is None:
        raise UserError(f"checkpoint {path} has no embedded config; it was not written by Touchstone")
    if is_module_spec(spec):
        return load_module_from_spec(spec, checkpoint, f"checkpoint {path}")
    return load_task_from_spec(spec, checkpoint["state_dict"], f"checkpoint {path}")


def load_task(path: Path) -> Supervised:
    """The same for a task of ours. Raises UserError if it is another LightningModule."""
    task = load_module(path)
    if not isinstance(task, Supervised):
        raise UserError(f"{path}: {type(task).__name__} is not derived from Supervised, which this needs")
    return task


def model_weights(store: Store, uri: str) -> Path:
    """The weight file of ``models:/m-…``, ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``, downloaded if necessary.

    Raises UserError if the model does not exist, or is not a Touchstone model.
    """
    from mlflow.exceptions import MlflowException

    try:
        model_id = logged_model_id(store, uri)
        location = store.client.get_logged_model(model_id).artifact_location
    except MlflowException as error:
        raise UserError(f"{uri}: {first_line(error)}") from error
    folder = local_folder(location)
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="touchstone-"))
        download_model(store, model_id, folder)
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{uri} has none of the files {', '.join(WEIGHTS)}: it is not a Touchstone model")


def find_logged_model(store: Store, wanted: str) -> tuple[str, Path]:
    """URI and folder (downloaded if necessary) of a run's logged model, or of ``models:/…``.

    Raises UserError if the run or model does not exist, or if the run has no READY model.
    """
    if not wanted.startswith("models:/"):
        run = find_run(store, wanted)
        model_id = run.data.tags.get(MODEL_ID_TAG)
        if not model_id or store.client.get_logged_model(model_id).status != "READY":
            raise UserError(
                f"run {run.info.run_id} ({run.info.run_name}, {run.info.status}) has no logged model: "
                "it is logged when the run finishes"
            )
        wanted = f"models:/{model_id}"
    folder = model_weights(store, wanted).parent
    if not (folder / "MLmodel").is_file():
        raise UserError(f"{wanted} has weights, but cannot be served; the description of its run says why")
    return wanted, folder


def logged_model_id(store: Store, uri: str) -> str:
    """The id of the logged model ``models:/m-…``, ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``."""
    name = uri.removeprefix("models:/").strip("/")
    registered, at, alias = name.partition("@")
    registered, slash, version = (registered, "", "") if at else name.partition("/")
    if not (at or slash):
        return name
    client = store.client
    known = [found.name for found in client.search_registered_models(max_results=1000)]
    if registered not in known:
        raise UserError(f"models:/{name}: no model is registered as {registered}: {suggest(registered, known)}")
    found = (
        client.get_model_version_by_alias(registered, alias) if at else client.get_model_version(registered, version)
    )
    return str(found.model_id or str(found.source).rpartition("/")[2])


class ServedModel:
    """The pyfunc model: ``predict`` maps raw samples [B, *input_shape] to probabilities [B, C] or values [B, D]."""

    def __init__(self, task: Supervised) -> None:
        self.task = task
        self.table = TableInput.of(task.task_spec)

    def predict(self, model_input: object, params: PlainDict | None = None) -> np.ndarray:
        """Predict an array or a data frame; columns are matched by name if the model was trained on a table."""
        x = parse_model_input(model_input, self.table)
        with torch.inference_mode():
            return self.task.scores(self.task(x)).numpy()


def _load_pyfunc(path: str) -> ServedModel | NamedForward:
    """MLflow's entry point: `path` is the file in the model's folder."""
    task = load_module(Path(path))
    return ServedModel(task) if isinstance(task, Supervised) else NamedForward(task)


def write_pyfunc(
    path: Path, example: torch.Tensor, trained: Supervised, samples: torch.Tensor, model_id: str, run_id: str
) -> None:
    """Write MLmodel, signature and input example beside the weights, so that MLflow can serve the folder.

    Args:
        path: a checkpoint or a compressed file in the logged model's folder.
        example: raw samples [N, *input_shape] for the input example.
        samples: raw samples on which the reloaded file must give the scores of `trained`.
        trained: the task that was saved.

    Raises UserError if the scores differ.
    """
    task, x = load_task(path), example.numpy()
    require_same_outputs(trained, task, samples, str(path))
    served = ServedModel(task)
    write_model_card(
        path, "lightning_modules.run.serve", x, served.predict(x), served.table, run_id=run_id, model_id=model_id
    )  # fmt: skip


def write_module_pyfunc(path: Path, trained: pl.LightningModule, model_id: str, run_id: str) -> None:
    """The same for a LightningModule that is not one of ours, with its ``example_input_array`` as the example."""
    task = load_module(path)
    require_same_module_outputs(trained, task, str(path))
    call = NamedForward(task)
    x = call.example_arrays()
    write_model_card(path, "lightning_modules.run.serve", x, call.predict(x), run_id=run_id, model_id=model_id)


def write_model_card(
    path: Path, loader: str, inputs: ModelValues, outputs: ModelValues, table: TableInput | None = None, **ids: Any
) -> None:
    """Write MLmodel, requirements and input example beside a file that the module `loader` reads.

    Args:
        inputs, outputs: raw samples [N, …] and what is predicted for them, arrays or arrays by name: the signature, for
            any N.
        table: the columns, where the model was trained on a table. The signature then has no inputs, as MLflow would
            drop the names of a data frame's columns, or reject arrays: the model itself matches and checks them.
        ids: ``run_id`` and ``model_id`` where there is one.
    """
    import mlflow
    from mlflow.models import Model, ModelSignature

    folder = path.parent
    signature, example = signature_of(inputs, outputs), inputs
    if table is not None:
        signature, example = ModelSignature(outputs=signature.outputs), table.frame(inputs)  # type: ignore[arg-type] # one array
        ids["metadata"] = {"inputs": table.plain()}
    model = Model(signature=signature, **ids)
    mlflow.pyfunc.add_to_model(model, loader_module=loader, data=path.name, python_env="python_env.yaml")
    (folder / "python_env.yaml").write_text(
        f"python: {mlflow.utils.PYTHON_VERSION}\ndependencies: [-r requirements.txt]\n"
    )
    (folder / "requirements.txt").write_text(_requirements(path.suffix != ".ckpt"))
    save_example(model, example, str(folder))
    model.save(str(folder / "MLmodel"))


def signature_of(inputs: ModelValues, outputs: ModelValues) -> Any:
    """MLflow's signature of a model that maps the one to the other, arrays or arrays by name, for any number of samples."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    named = (part if isinstance(part, dict) else {None: part} for part in (inputs, outputs))
    own, given = (Schema([TensorSpec(x.dtype, (-1, *x.shape[1:]), key) for key, x in part.items()]) for part in named)
    return ModelSignature(own, given)


_PACKAGES = (
    "torch", "torchvision", "pytorch-lightning", "torchmetrics", "hydra-core", "mlflow", "mlflow-skinny", "numpy",
    "touchstone-harness",
)  # fmt: skip
_COMPRESSED_PACKAGES = ("torch-pruning", "torchao", "onnx", "onnxruntime", "onnxscript", "zstandard", "constriction")


def _requirements(compressed: bool) -> str:
    """The packages with their versions, as far as they are installed here: mlflow-skinny may stand in for mlflow."""
    from importlib.metadata import PackageNotFoundError, version

    lines = []
    for name in (*_PACKAGES, *(_COMPRESSED_PACKAGES if compressed else ())):
        try:
            lines.append(f"{name}=={version(name)}")
        except PackageNotFoundError:
            continue
    return "".join(f"{line}\n" for line in lines)
