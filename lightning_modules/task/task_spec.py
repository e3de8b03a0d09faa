"""Rebuild a task from the plain spec in its checkpoint, and verify that it is the trained one."""

from collections.abc import Mapping

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn

from lightning_modules.compat.lightning import has_trainer
from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict
from lightning_modules.config.trust import refuse_untrusted
from lightning_modules.task.supervised import Supervised

_TRAINING_ONLY = ("loss.", "augmentation.", "tta.")
# tolerance relative to the largest output: other kernels (channels_last), and float32 instead of half precision
_TOLERANCE = {torch.float16: 0.02, torch.bfloat16: 0.1}


def build_task_from_spec(task_spec: Mapping[str, object], where: str) -> Supervised:
    """Build model, preprocessing and task without weights or data.

    Raises UserError if a target is not allowed; `where` names the file in the message.
    """
    config = OmegaConf.create({key: value for key, value in task_spec.items() if key != "inputs"})
    refuse_untrusted(config, where)
    if "weights" in config.model:
        config.model.weights = None  # loaded from the file
    if "pretrained" in config.model:
        config.model.pretrained = False
    settings = {key: value for key, value in config.task.items() if key not in ("monitor", "class_weights")}
    with isolate_rng(include_cuda=False):
        model: nn.Module = instantiate(config.model)
        task: Supervised = instantiate(
            OmegaConf.create(settings), model=model, preprocess=instantiate(config.preprocess, _convert_="all")
        )
    return task


def model_shapes(task_spec: PlainDict) -> tuple[tuple[int, ...], int]:
    """The shape of a sample and the number of outputs for which a task was trained."""
    shapes = {**task_spec.get("shapes", {}), **task_spec["model"]}
    return tuple(shapes["input_shape"]), int(shapes["num_outputs"])


def load_task_from_spec(task_spec: Mapping[str, object], state: Mapping[str, Tensor], where: str) -> Supervised:
    """Build the task with its weights in evaluation mode, without the parts needed in training only.

    Raises UserError like `build_task_from_spec`, and if the weights do not match; `where` names the file in the message.
    """
    task = build_task_from_spec(task_spec, where)
    kept = {key: value for key, value in state.items() if not key.startswith(_TRAINING_ONLY)}
    try:
        missing, unexpected = task.load_state_dict(kept, strict=False)
    except RuntimeError as error:  # different shapes
        raise UserError(
            f"{where} does not match its own config: {str(error).strip().splitlines()[-1].strip()}"
        ) from error
    missing = [key for key in missing if not key.startswith(_TRAINING_ONLY)]
    if missing or unexpected:
        raise UserError(f"{where} does not match its own config: missing {missing[:3]}, unexpected {unexpected[:3]}")
    task.task_spec = dict(task_spec)
    return task.eval()


def in_precision(task: pl.LightningModule, x: Tensor) -> Tensor:
    """Samples as the half or double precision of the task's trainer takes them."""
    return task.trainer.precision_plugin.convert_input(x) if has_trainer(task) else x


def output_tolerance(task: nn.Module) -> float:
    """The largest difference of equal outputs, relative to the largest output, by the dtypes of the parameters."""
    dtypes = {parameter.dtype for parameter in task.parameters()}
    return max((_TOLERANCE.get(dtype, 1e-4) for dtype in dtypes), default=1e-4)


def eval_outputs(task: Supervised, x: Tensor) -> Tensor:
    """Scores of raw samples in evaluation mode, as float32 on the CPU; compiled networks run eagerly."""
    training = task.training
    x = in_precision(task, x)
    try:
        with isolate_rng(include_cuda=False), torch.no_grad(), torch.compiler.set_stance("force_eager"):
            torch.default_generator.manual_seed(0)
            return task.scores(task.eval()(x.to(task.device))).float().cpu()
    finally:
        task.train(training)


def require_same_outputs(trained: Supervised, rebuilt: Supervised, x: Tensor, where: str) -> None:
    """Raise UserError if the scores of the `rebuilt` and the `trained` task differ for the raw samples `x`."""
    share = output_tolerance(trained)
    expected, found = eval_outputs(trained, x), eval_outputs(rebuilt, x)
    largest = float(torch.where(expected.isfinite(), expected.abs(), 0).max())
    same_shape = found.shape == expected.shape
    if not (same_shape and torch.allclose(found, expected, rtol=0, atol=share * largest, equal_nan=True)):
        off = f"by up to {float((found - expected).abs().max()):.3g}" if same_shape else "in shape"
        raise UserError(
            f"{where} is not the trained model: rebuilt from its config and weights, its scores differ {off} "
            f"for {len(x)} samples. Everything that the outputs depend on must be an argument of model, task or "
            "preprocessing, or a parameter or persistent buffer"
        )
