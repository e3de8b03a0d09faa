"""Classifiers of torchvision, random or pretrained; nothing is downloaded."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
import torchvision
from torch import nn

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.model.pretrained import PretrainedNetwork, load_weights
from lightning_modules.model.shape import image_shape

# the auxiliary heads of googlenet and inception_v3, which are built without them
AUXILIARY = ("aux1", "aux2", "AuxLogits")


class TorchvisionClassifier(PretrainedNetwork):
    """`torchvision.models.<name>` with `num_outputs` classes, for images of 1 or 3 channels.

    `weights`: None (random), `default` or another name of the model's weights enum (read from torch.hub's cache), or the
    path of a state dict. The head is re-initialised if the number of classes differs. `arguments` are passed to
    torchvision's builder. Raises UserError for an unknown name or argument, other channels, an unsupported size, and
    weights that are missing, damaged or from another network.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        name: str,
        weights: str | None = None,
        freeze_backbone: bool = False,
        **arguments: object,
    ) -> None:
        names = torchvision.models.list_models(module=torchvision.models)
        if name not in names:
            raise UserError(f"model.name={name} is not a torchvision classifier: {suggest(name, names)}")
        channels, height, width = image_shape("torchvision", input_shape)
        if channels not in (1, 3):
            raise UserError(f"model=torchvision needs 1 or 3 channels, the data gives {channels}")
        arguments = _builder_arguments(name, height, width, bool(weights)) | arguments
        try:
            network = torchvision.models.get_model(name, weights=None, num_classes=num_outputs, **arguments)
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            raise UserError(
                f"model.name={name} with {arguments} cannot be built for images of shape {tuple(input_shape)}: {error}"
            ) from error
        heads = [_find_head(network, num_outputs)]
        super().__init__(network, heads, repeat_gray=channels == 1, freeze_backbone=freeze_backbone)
        if weights:
            load_weights(network, weights_file(name, weights), [*heads, *AUXILIARY], _rename_legacy_key)
        self.check(name, input_shape, num_outputs)


def weights_file(name: str, weights: str) -> Path:
    """The file of `model.weights`. Raises UserError if torchvision's own file is not in torch.hub's cache."""
    enum = torchvision.models.get_model_weights(name)
    if weights.upper() not in enum.__members__:
        return Path(weights).expanduser()
    url: str = enum[weights.upper()].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        raise UserError(
            f"model.weights={weights}: {path} does not exist, and nothing is downloaded. "
            f"Download {url} to that path, or set model.weights=PATH"
        )
    return path


def _builder_arguments(name: str, height: int, width: int, pretrained: bool) -> dict[str, object]:
    """Arguments that some builders need: the image size, or no auxiliary heads."""
    if name.startswith("vit_"):
        if height != width:
            raise UserError(f"model.name={name} needs square images, the data gives {height}x{width}")
        return {"image_size": height}
    if name.startswith("maxvit"):
        return {"input_size": (height, width)}
    if name in ("googlenet", "inception_v3"):
        # the pretrained weights expect another normalisation and convert from ImageNet's
        return {"aux_logits": False, "init_weights": True, "transform_input": pretrained}
    return {}


def _find_head(network: nn.Module, num_outputs: int) -> str:
    """The name of the last linear layer or convolution (SqueezeNet) with `num_outputs` outputs."""
    widths = {
        name: module.out_features if isinstance(module, nn.Linear) else module.out_channels
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    return [name for name, width in widths.items() if width == num_outputs][-1]


def _rename_legacy_key(key: str) -> str:
    """torchvision's DenseNet files have `denselayer1.norm.1.weight` instead of `denselayer1.norm1.weight`."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key)
