"""The compressed network as a file: written, and loaded back into the task that its task spec describes."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from lightning_modules.compression import container
from lightning_modules.compression.compressed_state import CompressedState, apply_steps
from lightning_modules.config.errors import UserError
from lightning_modules.task.supervised import Supervised

FILE = "model.compressed.safetensors"


def save_compressed(
    path: Path, model: nn.Module, state: CompressedState, task_spec: Mapping[str, object]
) -> container.WriteReport:
    """Encode the network and write it; the task spec says how to rebuild task and network."""
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    return container.write(path, tensors, state, {"passport": dict(task_spec)})


def load_compressed(path: Path) -> Supervised:
    """Rebuild the task of a compressed file, in evaluation mode.

    Raises UserError if the file is damaged, belongs to another network, or names targets that are not allowed in a model.
    """
    header, _, _ = read = container.read(path)
    if "passport" not in header:
        raise UserError(f"{path} has no embedded config; it was not written by Touchstone")
    from lightning_modules.task.task_spec import build_task_from_spec

    task = build_task_from_spec(header["passport"], str(path))
    task.task_spec = header["passport"]
    load_into(task, path, read)
    return task.eval()


def load_into(task: Supervised, path: Path, read: container.Contents | None = None) -> CompressedState:
    """Replace a task's freshly built network with that of a compressed file; return the compressed state.

    Raises UserError if the file belongs to another network.
    """
    header, tensors, state = read or container.read(path)
    shape = header["passport"]["model"]["input_shape"]
    try:
        task.model = apply_steps(task.model, state.steps, torch.zeros(1, *shape))
        missing, unexpected = task.model.load_state_dict(tensors, strict=False)
    except (RuntimeError, AttributeError, KeyError, IndexError) as error:  # shapes that differ, missing layers
        raise UserError(f"{path} does not fit this network: {str(error).strip().splitlines()[-1].strip()}") from error
    if missing or unexpected:
        raise UserError(f"{path} does not fit this network: missing {missing[:3]}, unexpected {unexpected[:3]}")
    return state
