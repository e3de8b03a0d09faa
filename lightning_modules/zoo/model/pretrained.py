"""What the torchvision and timm classifiers share: loading weight files, gray images, the head, a frozen backbone."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_modules.config.errors import UserError, first_line
from lightning_modules.model.checksum import load_verified


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict in safetensors or torch format (there also under the key `state_dict` or `model`).

    Nothing is unpickled. Raises UserError if the file is missing, damaged or not a state dict.
    """
    if not path.is_file():
        raise UserError(
            f"model.weights={path}: no such file; expected null, default, or a .pth, .pt or .safetensors file"
        )
    state = _read(path)
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"model.weights={path} is not a state dict (names and tensors)")
    return state


def _read(path: Path) -> object:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return load_verified(path, ours=False)
    except Exception as error:  # each reader raises its own types for damaged files
        raise UserError(
            f"model.weights={path} cannot be read: it is damaged or not a plain state dict ({first_line(error)})"
        ) from error


def load_weights(network: nn.Module, path: Path, optional: Sequence[str], rename: Callable[[str], str] = str) -> None:
    """Load the file into `network` in place. Names may have a prefix, as in checkpoints of a task.

    Modules named in `optional` (the heads) keep their values if the file lacks them or has other shapes. Raises UserError
    with a few of the differing names if the weights belong to another network.
    """
    state = _strip_prefix(read_state_dict(path), network)
    own, heads = network.state_dict(), tuple(f"{module}." for module in optional)
    for key in list(state):  # in place, to keep the versions in the dict's metadata
        value = state.pop(key)
        key = rename(key)
        if not key.startswith(heads) or (key in own and own[key].shape == value.shape):
            state[key] = value
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError) as error:
        differences = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
    else:
        differences = [f"missing {key}" for key in missing if not key.startswith(heads)]
        differences += [f"unexpected {key}" for key in unexpected]
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise UserError(f"model.weights={path} belongs to another network: {'; '.join(differences[:3])}{more}")


def _strip_prefix(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    first = next(iter(network.state_dict()))
    prefixes = [key.removesuffix(first) for key in state if key.endswith(f".{first}")]
    if first in state or not prefixes:
        return state
    prefix = min(prefixes, key=len)  # `model.` rather than `model.layer1.0.`
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def build_network(
    create: Callable[..., nn.Module],
    name: str,
    input_shape: Sequence[int],
    arguments: Mapping[str, object],
    **more: object,
) -> nn.Module:
    """The library's network `name`. Raises UserError, with the user's `arguments`, if its builder rejects them."""
    try:
        return create(name, **more, **arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise UserError(
            f"model.name={name} with {dict(arguments)} cannot be built for images of shape {tuple(input_shape)}: {error}"
        ) from error


class PretrainedNetwork(nn.Module):
    """Wraps a library's `network`; `heads` are the names of its last layers.

    Gray images are repeated to three channels with `repeat_gray`. With `freeze_backbone` only the heads are trained, and
    all else stays in eval mode, so that the running statistics of batch norms do not change.
    """

    def __init__(self, network: nn.Module, heads: Sequence[str], repeat_gray: bool, freeze_backbone: bool) -> None:
        super().__init__()
        self.network = network
        self.heads = list(heads)
        self.repeat_gray = repeat_gray
        self.freeze_backbone = freeze_backbone
        if freeze_backbone:
            network.requires_grad_(False)
            for head in heads:
                network.get_submodule(head).requires_grad_(True)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.expand(-1, 3, -1, -1) if self.repeat_gray else images)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.freeze_backbone:
            self.network.eval()
            for head in self.heads:
                self.network.get_submodule(head).train(mode)
        return self

    def check(self, name: str, input_shape: Sequence[int], num_outputs: int) -> None:
        """Run one black image through the network; raise UserError if it fails or the network is not a classifier."""
        self.eval()
        try:
            with torch.no_grad():
                logits = self(torch.zeros(1, *input_shape))
        except (RuntimeError, ValueError, AssertionError) as error:
            raise UserError(
                f"model.name={name} cannot take images of shape {tuple(input_shape)}: {first_line(error)}"
            ) from error
        self.train()
        if not isinstance(logits, Tensor) or logits.shape != (1, num_outputs):
            raise UserError(f"model.name={name} is not a classifier: its output is not one row of {num_outputs} logits")
