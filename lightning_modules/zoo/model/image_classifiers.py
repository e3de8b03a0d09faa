"""Classifiers of torchvision and timm (PyTorch Image Models, an optional extra); nothing is downloaded."""

import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torchvision
from torch import nn

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.model.shape import image_shape
from lightning_modules.zoo.model.pretrained import PretrainedNetwork, build_network, load_weights, read_state_dict

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
        create = torchvision.models.get_model
        network = build_network(create, name, input_shape, arguments, weights=None, num_classes=num_outputs)
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


class TimmClassifier(PretrainedNetwork):
    """`timm.create_model(name)` with `num_outputs` classes and the data's channels.

    `pretrained` loads timm's weights from the local Hugging Face cache; `weights` is the path of a state dict. With
    either, gray images are repeated to three channels, and the head is re-initialised if the number of classes differs.
    `arguments` are passed to timm. Raises UserError as TorchvisionClassifier does, and if timm is not installed.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        name: str,
        pretrained: bool = False,
        weights: str | None = None,
        freeze_backbone: bool = False,
        **arguments: object,
    ) -> None:
        try:
            import timm
        except ModuleNotFoundError as error:
            raise UserError("model=timm needs timm: pip install -e '.[timm]'") from error
        config = _config(timm, name)
        if pretrained and weights:
            raise UserError("model.pretrained=true and model.weights exclude each other: set one of them")
        channels, height, width = image_shape("timm", input_shape)
        repeat_gray = channels == 1 and (pretrained or weights is not None)
        if config.fixed_input_size:
            arguments = {"img_size": (height, width)} | arguments
        if pretrained:
            overlay = {"file": str(_cached_file(name, config))}
            arguments = {"pretrained": True, "pretrained_cfg_overlay": overlay} | arguments
        sizes = {"num_classes": num_outputs, "in_chans": 3 if repeat_gray else channels}
        network = build_network(timm.create_model, name, input_shape, arguments, **sizes)
        classifier = config.classifier or ()
        heads = [classifier] if isinstance(classifier, str) else list(classifier)
        super().__init__(network, heads, repeat_gray, freeze_backbone)
        if weights:
            load_weights(network, Path(weights).expanduser(), heads)
        self.check(name, input_shape, num_outputs)


def _config(timm: ModuleType, name: str) -> Any:
    """timm's pretrained config of the network: classifier, fixed input size, location of the weights."""
    if not timm.is_model(name):
        hint = suggest(name, timm.list_models())
        raise UserError(
            f"model.name={name} is not a timm model: {hint if len(hint) < 200 else 'see timm.list_models()'}"
        )
    return timm.models.get_pretrained_cfg(name) or timm.models.PretrainedCfg()


def _cached_file(name: str, config: Any) -> Path:
    """timm's weights in the local Hugging Face cache; raises UserError if they are missing or damaged."""
    from huggingface_hub import try_to_load_from_cache

    for filename in [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]:
        found = try_to_load_from_cache(config.hf_hub_id, filename) if config.hf_hub_id else None
        if isinstance(found, str):
            read_state_dict(Path(found))
            return Path(found)
    raise UserError(
        f"model.pretrained=true: the weights of {name} are not in the local Hugging Face cache, and nothing "
        f"is downloaded. Get them with `hf download {config.hf_hub_id}`, or give a file as model.weights=PATH"
    )
