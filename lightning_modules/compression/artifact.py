"""The compressed network as a file: written, and loaded back into the task that its task spec describes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from lightning_modules.compression import container
from lightning_modules.compression.compressed_state import CompressedState, apply_steps
from lightning_modules.compression.plain_module import example_inputs, network_inputs
from lightning_modules.config.errors import UserError
from lightning_modules.run.lightning_task import build_module_from_spec, is_module_spec
from lightning_modules.task.task_spec import build_task_from_spec, model_shapes

FILE = "model.compressed.safetensors"


def save_compressed(
    path: Path, model: nn.Module, state: CompressedState, task_spec: Mapping[str, object]
) -> container.WriteReport:
    """Encode the network and write it; the task spec says how to rebuild task and network."""
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    return container.write(path, tensors, state, {"passport": dict(task_spec)})


def load_compressed(path: Path) -> pl.LightningModule:
    """Rebuild the task of a compressed file, in evaluation mode.

    Raises UserError if the file is damaged, belongs to another network, or names targets that are not allowed in a model.
    """
    header, _, _ = read = container.read(path)
    if "passport" not in header:
        raise UserError(f"{path} has no embedded config; it was not written by Touchstone")
    spec = header["passport"]
    task: Any = (build_module_from_spec if is_module_spec(spec) else build_task_from_spec)(spec, str(path))
    task.task_spec = spec
    load_into(task, path, read)
    return task.eval()


def load_into(task: pl.LightningModule, path: Path, read: container.Contents | None = None) -> CompressedState:
    """Replace a task's freshly built network with that of a compressed file; return the compressed state.

    Raises UserError if the file belongs to another network.
    """
    header, tensors, state = read or container.read(path)
    spec = header["passport"]
    module = spec.get("module")  # of a task that is not one of ours, whose file holds all of its tensors
    name = module or "model"
    try:
        x = network_inputs(task, module, example_inputs(task)) if module else torch.zeros(1, *model_shapes(spec)[0])
        task.set_submodule(name, apply_steps(task.get_submodule(name), state.steps, x))
        missing, unexpected = (task if module else task.get_submodule(name)).load_state_dict(tensors, strict=False)
    except (RuntimeError, AttributeError, KeyError, IndexError) as error:  # shapes that differ, missing layers
        raise UserError(f"{path} does not fit this network: {str(error).strip().splitlines()[-1].strip()}") from error
    if missing or unexpected:
        raise UserError(f"{path} does not fit this network: missing {missing[:3]}, unexpected {unexpected[:3]}")
    return state
