"""Loads weight files into networks, with a new head if the number of classes differs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_modules.config.errors import UserError
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


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return load_verified(path, ours=False)
    except ModuleNotFoundError as error:
        raise UserError(f"model.weights={path} needs a package: pip install safetensors") from error
    except Exception as error:  # each reader raises its own types for damaged files
        reason = str(error).strip().splitlines()[:1]
        raise UserError(
            f"model.weights={path} cannot be read: it is damaged or not a plain state dict ({''.join(reason)})"
        ) from error


def load_weights(
    network: nn.Module,
    path: Path,
    optional: Sequence[str],
    rename: Callable[[str], str] = str,
) -> None:
    """Load the file into `network` in place. Names may have a prefix, as in checkpoints of a task.

    Modules named in `optional` (the heads) keep their values if the file lacks them or has other shapes. Raises UserError
    with a few of the differing names if the weights belong to another network.
    """
    state = _strip_prefix(read_state_dict(path), network)
    own = network.state_dict()
    for key in list(state):  # in place, to keep the versions in the dict's metadata
        value = state.pop(key)
        key = rename(key)
        if not _is_part_of(key, optional) or (key in own and own[key].shape == value.shape):
            state[key] = value
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError) as error:
        differences = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
    else:
        differences = [f"missing {key}" for key in missing if not _is_part_of(key, optional)]
        differences += [f"unexpected {key}" for key in unexpected]
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise UserError(f"model.weights={path} belongs to another network: {'; '.join(differences[:3])}{more}")


def _is_part_of(key: str, modules: Sequence[str]) -> bool:
    return any(key.startswith(f"{module}.") for module in modules)


def _strip_prefix(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    first = next(iter(network.state_dict()))
    prefixes = [key.removesuffix(first) for key in state if key.endswith(f".{first}")]
    if first in state or not prefixes:
        return state
    prefix = min(prefixes, key=len)  # `model.` rather than `model.layer1.0.`
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
