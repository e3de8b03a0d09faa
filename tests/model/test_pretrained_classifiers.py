"""The networks of torchvision and timm: heads, frozen backbones, weights from files, and every refusal."""

import sys
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.model.image_classifiers import TimmClassifier, TorchvisionClassifier

GRAY, COLOUR = (1, 32, 32), (3, 32, 32)
SMALL = "mobilenet_v3_small"
TIMM = "mobilenetv3_small_050"


def save(model: nn.Module, path: Path) -> Path:
    state = model.state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def library(name: str, classes: int) -> nn.Module:
    torch.manual_seed(1)
    model = torchvision.models.get_model(name, weights=None, num_classes=classes).eval()
    assert isinstance(model, nn.Module)
    return model


def same(model: nn.Module, other: nn.Module, key: str) -> bool:
    return torch.equal(model.get_parameter(key), other.get_parameter(key))


def step(model: nn.Module, shape: tuple[int, ...]) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()
    model(torch.randn(4, *shape)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet18", "fc"),
        ("vgg16_bn", "classifier.6"),
        ("mobilenet_v3_small", "classifier.3"),
        ("efficientnet_b0", "classifier.1"),
        ("densenet121", "classifier"),
        ("convnext_tiny", "classifier.2"),
        ("vit_b_16", "heads.head"),
        ("squeezenet1_1", "classifier.1"),
        ("googlenet", "fc"),
    ],
)
def test_any_classifier_of_torchvision_takes_gray_images_and_the_classes_of_the_data(name: str, head: str) -> None:
    model = TorchvisionClassifier(GRAY, 7, name, freeze_backbone=True)
    assert model.heads == [head]
    learning = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {f"network.{head}.weight", f"network.{head}.bias"}
    logits = model(torch.randn(2, *GRAY))
    assert logits.shape == (2, 7)
    logits.sum().backward()


def test_resnet18_has_the_published_number_of_parameters() -> None:
    model = TorchvisionClassifier((3, 64, 64), 1000, "resnet18")
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_689_512


def test_a_gray_image_is_repeated_to_three_channels() -> None:
    model = TorchvisionClassifier(GRAY, 5, SMALL).eval()
    image = torch.randn(2, *GRAY)
    assert torch.equal(model(image), model.network(image.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("library_class", [TorchvisionClassifier, TimmClassifier])
def test_a_frozen_backbone_moves_neither_weights_nor_batch_norms(
    library_class: type[TorchvisionClassifier] | type[TimmClassifier],
) -> None:
    model = library_class(COLOUR, 5, "resnet18", freeze_backbone=True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    step(model, COLOUR)
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"network.fc.weight", "network.fc.bias"}
    assert model.training and model.get_submodule("network.fc").training


def test_a_backbone_that_is_not_frozen_moves_with_its_batch_norms() -> None:
    model = TorchvisionClassifier(COLOUR, 5, SMALL)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    step(model, COLOUR)
    still = [key for key, value in model.state_dict().items() if torch.equal(value, before[key])]
    assert not [key for key in still if "running" in key or key.endswith(".0.0.weight")]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_from_a_file_are_those_of_the_file(suffix: str, tmp_path: Path) -> None:
    saved = library(SMALL, 5)
    path = save(saved, tmp_path / f"weights{suffix}")
    model = TorchvisionClassifier(COLOUR, 5, SMALL, weights=str(path)).eval()
    image = torch.randn(2, *COLOUR)
    assert torch.equal(model(image), saved(image))


@pytest.mark.parametrize("name", [SMALL, "squeezenet1_1"])
def test_the_head_starts_anew_where_the_classes_differ_from_those_of_the_weights(name: str, tmp_path: Path) -> None:
    saved = library(name, 100)
    model = TorchvisionClassifier(COLOUR, 5, name, weights=str(save(saved, tmp_path / "weights.pt")))
    state = model.network.state_dict()
    differing = {key for key, value in saved.state_dict().items() if value.shape != state[key].shape}
    assert differing == {f"{model.heads[0]}.weight", f"{model.heads[0]}.bias"}
    assert all(torch.equal(state[key], saved.state_dict()[key]) for key in state if key not in differing)


def test_default_means_the_file_of_torchvision_in_the_local_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "mobilenet_v3_small-047dcff4.pth"
    with pytest.raises(UserError, match="nothing is downloaded") as caught:
        TorchvisionClassifier(COLOUR, 5, SMALL, weights="default")
    for part in (str(file), f"https://download.pytorch.org/models/{file.name}", "model.weights=PATH"):
        assert part in str(caught.value)
    file.parent.mkdir(parents=True)
    saved = library(SMALL, 1000)
    save(saved, file)
    model = TorchvisionClassifier(COLOUR, 5, SMALL, weights="default")
    assert same(model.network, saved, "features.0.0.weight")


def test_the_old_names_in_files_of_densenet_are_understood(tmp_path: Path) -> None:
    saved = library("densenet121", 5)
    old = dict(saved.state_dict())
    for key in list(old):
        for layer in ("norm1", "norm2", "conv1", "conv2"):
            if f"denselayer1.{layer}." in key:
                old[key.replace(layer, f"{layer[:-1]}.{layer[-1]}")] = old.pop(key)
    torch.save(old, tmp_path / "old.pth")
    model = TorchvisionClassifier(COLOUR, 5, "densenet121", weights=str(tmp_path / "old.pth"))
    assert all(torch.equal(value, saved.state_dict()[key]) for key, value in model.network.state_dict().items())


def test_weights_may_come_from_the_checkpoint_of_a_whole_task(tmp_path: Path) -> None:
    first = TorchvisionClassifier(COLOUR, 5, SMALL)
    state = {f"model.{key}": value for key, value in first.state_dict().items()}
    torch.save({"state_dict": state | {"loss.weight": torch.ones(2)}, "epoch": 3}, tmp_path / "last.ckpt")
    second = TorchvisionClassifier(COLOUR, 5, SMALL, weights=str(tmp_path / "last.ckpt"))
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


def test_googlenet_ignores_the_second_heads_in_its_weights(tmp_path: Path) -> None:
    saved = torchvision.models.googlenet(weights=None, num_classes=5, init_weights=False)
    path = save(saved, tmp_path / "weights.pt")
    model = TorchvisionClassifier(COLOUR, 5, "googlenet", weights=str(path))
    assert same(model.network, saved, "fc.weight")


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"model.name=resnet19 is not a torchvision classifier: did you mean"):
        TorchvisionClassifier(COLOUR, 5, "resnet19")
    with pytest.raises(UserError, match="not a torchvision classifier"):
        TorchvisionClassifier(COLOUR, 5, "fcn_resnet50")
    with pytest.raises(UserError, match=r"model.name=resnet19 is not a timm model: did you mean"):
        TimmClassifier(COLOUR, 5, "resnet19")
    with pytest.raises(UserError, match=r"see timm.list_models\(\)"):
        TimmClassifier(COLOUR, 5, "zzzzzz")


def test_images_that_a_network_cannot_take_are_named() -> None:
    with pytest.raises(UserError, match="needs 1 or 3 channels, the data gives 2"):
        TorchvisionClassifier((2, 32, 32), 5, SMALL)
    with pytest.raises(UserError, match=r"squeezenet1_1 cannot take images of shape \(1, 8, 8\)"):
        TorchvisionClassifier((1, 8, 8), 5, "squeezenet1_1")
    with pytest.raises(UserError, match="vit_b_16 needs square images, the data gives 32x48"):
        TorchvisionClassifier((3, 32, 48), 5, "vit_b_16")
    with pytest.raises(UserError, match=r"'image_size': 28.*cannot be built"):
        TorchvisionClassifier((3, 28, 28), 5, "vit_b_16")
    with pytest.raises(UserError, match="unexpected keyword argument 'dropuot'"):
        TorchvisionClassifier(COLOUR, 5, "resnet18", dropuot=0.1)
    with pytest.raises(UserError, match="not a classifier: its output is not one row of 5 logits"):
        TimmClassifier((3, 64, 64), 5, TIMM, features_only=True)


def test_a_weights_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    def refuse(path: Path, match: str) -> str:
        with pytest.raises(UserError, match=match) as caught:
            TorchvisionClassifier(COLOUR, 5, SMALL, weights=str(path))
        assert str(path) in str(caught.value)
        return str(caught.value)

    refuse(tmp_path / "absent.pt", "no such file")
    other = refuse(save(library("squeezenet1_1", 5), tmp_path / "other.pt"), "belongs to another network")
    assert "missing features.0.0.weight" in other and " more" in other
    resized = refuse(save(library("mobilenet_v3_large", 5), tmp_path / "large.pt"), "another network")
    assert "size mismatch" in resized
    whole = save(library(SMALL, 5), tmp_path / "whole.pt").read_bytes()
    for name in ("cut.pt", "cut.safetensors"):
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        refuse(tmp_path / name, "it is damaged or not a plain state dict")
    torch.save(library(SMALL, 5), tmp_path / "module.pt")
    refuse(tmp_path / "module.pt", "not a plain state dict")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    refuse(tmp_path / "empty.pt", "is not a state dict")


def test_a_missing_package_is_answered_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[timm\]'"):
        TimmClassifier(COLOUR, 5, TIMM)


@pytest.mark.parametrize("name", [TIMM, "vit_tiny_patch16_224", "convnext_atto"])
def test_any_classifier_of_timm_takes_the_channels_and_the_size_of_the_data(name: str) -> None:
    model = TimmClassifier((2, 32, 32), 7, name)
    assert model(torch.randn(2, 2, 32, 32)).shape == (2, 7)


def test_weights_from_a_file_reach_a_network_of_timm(tmp_path: Path) -> None:
    saved = timm.create_model(TIMM, num_classes=100)
    path = save(saved, tmp_path / "weights.safetensors")
    model = TimmClassifier(GRAY, 5, TIMM, weights=str(path))
    assert same(model.network, saved, "conv_stem.weight")
    assert model(torch.randn(2, *GRAY)).shape == (2, 5)
    with pytest.raises(UserError, match="belongs to another network"):
        TimmClassifier(GRAY, 5, "resnet18", weights=str(path))
    with pytest.raises(UserError, match="exclude each other"):
        TimmClassifier(GRAY, 5, TIMM, pretrained=True, weights=str(path))


def test_pretrained_means_the_local_cache_of_hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=f"hf download timm/{TIMM}"):
        TimmClassifier(COLOUR, 5, TIMM, pretrained=True)
    [tagged] = timm.list_pretrained(f"{TIMM}.*")
    folder = tmp_path / f"models--timm--{tagged}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    saved = timm.create_model(TIMM)
    save(saved, folder / "snapshots" / ("0" * 40) / "model.safetensors")
    model = TimmClassifier(COLOUR, 5, TIMM, pretrained=True)
    assert same(model.network, saved, "conv_stem.weight")
