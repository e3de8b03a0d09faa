"""A recorded checkpoint as MLflow's pyfunc model: raw samples in, probabilities or values out."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from lightning_modules.check import refuse_untrusted
from lightning_modules.errors import UserError
from lightning_modules.task.supervised import Supervised
from lightning_modules.tracking.checkpoint import read_checkpoint


def load_task(path: Path) -> Supervised:
    """Rebuild the task of a checkpoint, in evaluation mode, without its data.

    Raises UserError where the file is damaged, or where its config names a target that is no part of a model.
    """
    checkpoint = read_checkpoint(path)
    if "passport" not in checkpoint:
        raise UserError(f"The checkpoint {path} says nothing of its config: it was not written by this harness")
    config = OmegaConf.create(checkpoint["passport"])
    refuse_untrusted(config, str(path))
    if "weights" in config.model:
        config.model.weights = None  # they come from the checkpoint
    if "pretrained" in config.model:
        config.model.pretrained = False
    settings = {key: value for key, value in config.task.items() if key not in ("monitor", "class_weights")}
    with torch.random.fork_rng(devices=[]):
        model: nn.Module = instantiate(config.model)
        task: Supervised = instantiate(
            OmegaConf.create(settings), model=model, preprocess=instantiate(config.preprocess)
        )
    state = {key: value for key, value in checkpoint["state_dict"].items() if not key.startswith("loss.")}
    missing, unexpected = task.load_state_dict(state, strict=False)
    missing = [key for key in missing if not key.startswith("loss.")]
    if missing or unexpected:
        raise UserError(
            f"The checkpoint {path} does not fit its own config: missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
    return task.eval()


class ServedModel:
    """What MLflow calls: ``predict`` maps raw samples [B, *input_shape] to probabilities [B, C] or values [B, D]."""

    def __init__(self, task: Supervised) -> None:
        self.task = task

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> np.ndarray:
        """Predict a numpy array, or the values of a data frame."""
        x = torch.as_tensor(np.array(getattr(model_input, "values", model_input)))
        with torch.inference_mode():
            return self.task.scores(self.task(x)).numpy()


def _load_pyfunc(path: str) -> ServedModel:
    """MLflow's entry point: `path` is the checkpoint in the model's folder."""
    return ServedModel(load_task(Path(path)))


def write_pyfunc(folder: Path, checkpoint: str, example: torch.Tensor, model_id: str, run_id: str) -> None:
    """Write MLmodel, signature and input example beside the checkpoint, so that MLflow can serve the folder.

    Args:
        folder: the logged model's artifacts; `checkpoint` is the file's name in it.
        example: raw samples [N, *input_shape].
    """
    import mlflow
    from mlflow.models import Model, ModelSignature
    from mlflow.models.utils import _save_example
    from mlflow.types import Schema, TensorSpec

    served = ServedModel(load_task(folder / checkpoint))
    predicted = served.predict(example.numpy())
    inputs = TensorSpec(example.numpy().dtype, (-1, *example.shape[1:]))
    outputs = TensorSpec(predicted.dtype, (-1, *predicted.shape[1:]))
    model = Model(run_id=run_id, model_id=model_id, signature=ModelSignature(Schema([inputs]), Schema([outputs])))
    mlflow.pyfunc.add_to_model(
        model, loader_module="lightning_modules.serve", data=checkpoint, python_env="python_env.yaml"
    )
    (folder / "python_env.yaml").write_text(
        f"python: {mlflow.utils.PYTHON_VERSION}\ndependencies: [-r requirements.txt]\n"
    )
    from importlib.metadata import version

    packages = (
        "torch",
        "torchvision",
        "pytorch-lightning",
        "torchmetrics",
        "hydra-core",
        "mlflow",
        "numpy",
        "touchstone-harness",
    )
    (folder / "requirements.txt").write_text("".join(f"{name}=={version(name)}\n" for name in packages))
    _save_example(model, example.numpy(), str(folder))
    model.save(str(folder / "MLmodel"))
