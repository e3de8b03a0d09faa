"""Classifiers of timm (PyTorch Image Models, an optional extra); nothing is downloaded."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.model.pretrained import PretrainedNetwork, load_weights, read_state_dict
from lightning_modules.model.shape import image_shape


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
        timm = _import_timm()
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
        try:
            network = timm.create_model(
                name, num_classes=num_outputs, in_chans=3 if repeat_gray else channels, **arguments
            )
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            raise UserError(
                f"model.name={name} with {arguments} cannot be built for images of shape {tuple(input_shape)}: {error}"
            ) from error
        classifier = config.classifier or ()
        heads = [classifier] if isinstance(classifier, str) else list(classifier)
        super().__init__(network, heads, repeat_gray, freeze_backbone)
        if weights:
            load_weights(network, Path(weights).expanduser(), heads)
        self.check(name, input_shape, num_outputs)


def _import_timm() -> ModuleType:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise UserError("model=timm needs timm: pip install -e '.[timm]'") from error
    return timm


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
