"""Every network of the room: shapes, published sizes, gradients, and what it answers to the wrong data."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from lightning_modules.config.errors import UserError
from lightning_modules.model.mlp import MLP
from lightning_modules.zoo.model.convnets import BasicBlock, CifarResNet, ConvNet
from lightning_modules.zoo.model.vit import ViT

CONFIGS = Path(__file__).parents[2] / "conf" / "model"
Shape = tuple[int, ...]
DIGITS, MNIST, CIFAR, SERIES = (1, 8, 8), (1, 28, 28), (3, 32, 32), (40,)
IMAGES: list[Shape] = [DIGITS, MNIST, CIFAR]
ANY: list[Shape] = [*IMAGES, SERIES]
SHAPES: dict[str, list[Shape]] = {
    "basic_resnet": [CIFAR],
    "linear": ANY,
    "mlp": ANY,
    "convnet": IMAGES,
    "mnist1d_cnn": [SERIES, (2, 40)],
    "mnist1d_gru": [SERIES, (2, 40)],
    "lenet300": ANY,
    "lenet5": [MNIST, CIFAR, (1, 16, 20)],
    "resnet20": IMAGES,
    "resnet56": [DIGITS],
    "vit_tiny": [*ANY, (2, 40)],
    "torchvision": IMAGES,
    "timm": IMAGES,
    "two_conv": [MNIST],
    "uniform_mlp": ANY,
    "series_fcn": [SERIES, (2, 40)],
    "series_mlp": [SERIES, (2, 40)],
    "series_resnet": [SERIES, (2, 40)],
}
ELSEWHERE = {
    *("constant", "matrix_factorization"),  # no networks of samples: with their tasks in tests/task
    *("kim_cnn", "text_gru", "text_transformer", "hf_text"),  # test_text_*.py
    *("audio_cnn", "audio_gru"),  # test_audio_networks.py
    "speech_gru",  # test_speech.py
    *("bpr", "neumf", "lightgcn", "item_sequence"),  # test_recommenders.py
    *(
        "gpt",
        "masked_bert",
        "mlp_gan",
        "dcgan",
        "unet",
        "torchvision_segmentation",
        "fcos",
        "torchvision_detector",
        "attention_gru",
        "translation_transformer",
    ),  # with their tasks
}


def build(name: str, shape: Shape, num_outputs: int = 10, **changes: object) -> nn.Module:
    torch.manual_seed(0)
    config = OmegaConf.merge(OmegaConf.load(CONFIGS / f"{name}.yaml"), changes)
    model = instantiate(config, input_shape=list(shape), num_outputs=num_outputs)
    assert isinstance(model, nn.Module)
    return model


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_config_of_the_group_is_tested_here() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == SHAPES.keys() | ELSEWHERE


@pytest.mark.parametrize(("name", "shape"), [(name, shape) for name in SHAPES for shape in SHAPES[name]])
def test_a_network_gives_one_row_of_logits_per_sample_and_every_parameter_learns(name: str, shape: Shape) -> None:
    model = build(name, shape, num_outputs=7)
    logits = model(torch.randn(3, *shape))
    assert logits.shape == (3, 7)
    logits.square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", SHAPES)
def test_a_state_dict_comes_back_without_unpickling(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name][0]
    model = build(name, shape).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = build(name, shape).eval()
    nn.init.ones_(next(other.parameters()))
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    batch = torch.randn(2, *shape)
    assert torch.equal(model(batch), other(batch))


@pytest.mark.parametrize(
    ("name", "shape", "published"),
    [
        ("linear", SERIES, 410),
        ("mnist1d_cnn", SERIES, 5_210),
        ("mnist1d_gru", SERIES, 5_134),
        ("lenet300", MNIST, 266_610),
        ("lenet5", MNIST, 431_080),
        ("resnet20", CIFAR, 269_722),
        ("resnet56", CIFAR, 853_018),
    ],
)
def test_the_number_of_parameters_is_the_published_one(name: str, shape: Shape, published: int) -> None:
    assert parameters(build(name, shape)) == published


def test_the_founding_cnn_and_two_conv_two_dense_are_options_of_the_convnet() -> None:
    plain = ConvNet(MNIST, 10, channels=[32, 64], depth=1, batch_norm=False, hidden=128)
    assert parameters(plain) == 320 + 18_496 + (64 * 49 * 128 + 128) + 1_290
    wide = ConvNet(MNIST, 10, channels=[32, 64], depth=1, kernel_size=5, batch_norm=False, hidden=1024)
    assert parameters(wide) == 832 + 51_264 + (64 * 49 * 1024 + 1024) + 10_250


def test_the_second_hidden_layer_of_a_residual_mlp_adds_its_input() -> None:
    model = MLP(SERIES, 10, hidden=[100, 100], residual=True)
    batch = torch.randn(5, 40)
    first = model.hidden[0](batch).relu()
    expected = model.head(first + model.hidden[1](first).relu())
    assert torch.equal(model(batch), expected)


def test_dropout_acts_in_training_only() -> None:
    model = build("mlp", DIGITS, dropout=0.5)
    batch = torch.randn(4, *DIGITS)
    assert not torch.equal(model(batch), model(batch))
    model.eval()
    assert torch.equal(model(batch), model(batch))


def test_the_shortcut_of_a_widening_block_skips_pixels_and_fills_with_zeros() -> None:
    block = BasicBlock(2, 4).eval()
    nn.init.zeros_(block.bn2.weight)  # leaves the shortcut alone
    x = torch.rand(1, 2, 4, 4)
    out: Tensor = block(x)
    assert torch.equal(out[:, 1:3], x[:, :, ::2, ::2])
    assert not out[:, [0, 3]].any()


def test_a_vision_transformer_knows_where_its_patches_are() -> None:
    torch.manual_seed(0)
    model = ViT(DIGITS, 10).eval()
    image = torch.randn(1, *DIGITS)
    swapped = image.roll(4, dims=3)  # the left patches change places with the right ones
    assert not torch.allclose(model(image), model(swapped), atol=1e-6)
    nn.init.zeros_(model.positions)
    assert torch.allclose(model(image), model(swapped), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("convnet", SERIES, r"model=convnet needs images \[C, H, W\], the data gives \(40,\)"),
        ("convnet", (1, 3, 3), "at least 4x4 pixels"),
        ("lenet5", DIGITS, "model=lenet5 needs images of at least 16x16"),
        ("resnet20", SERIES, "needs images"),
        ("mnist1d_cnn", DIGITS, r"model=mnist1d_cnn needs series \[L\] or \[C, L\]"),
        ("mnist1d_cnn", (2,), "at least 3 positions"),
        ("mnist1d_gru", DIGITS, "model=mnist1d_gru needs series"),
        ("vit_tiny", (1, 30, 28), r"model.patch_size=4 does not divide the sides of \(1, 30, 28\)"),
        ("vit_tiny", (1, 2, 3, 4), "needs series"),
        ("torchvision", SERIES, "model=torchvision needs images"),
        ("timm", SERIES, "model=timm needs images"),
    ],
)
def test_data_of_the_wrong_shape_is_named(name: str, shape: Shape, message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        build(name, shape)
    assert isinstance(caught.value.__cause__, UserError)  # Hydra wraps what a constructor raises


def test_arguments_that_no_network_can_have_are_named() -> None:
    with pytest.raises(UserError, match=r"model.activation=rely: did you mean 'relu'"):
        MLP(SERIES, 10, activation="rely")
    with pytest.raises(UserError, match=r"model.residual=true needs model.hidden of one width"):
        MLP(SERIES, 10, hidden=[100, 50], residual=True)
    with pytest.raises(UserError, match=r"model.channels is empty"):
        ConvNet(DIGITS, 10, channels=[])
    with pytest.raises(UserError, match=r"model.depth=21"):
        CifarResNet(CIFAR, 10, depth=21)
    with pytest.raises(UserError, match=r"model.dim=30 must be a multiple of model.heads=4"):
        ViT(DIGITS, 10, dim=30)


@pytest.mark.parametrize("name", ["mnist1d_cnn", "mnist1d_gru", "vit_tiny"])
def test_the_logits_of_a_sample_do_not_depend_on_its_batch(name: str) -> None:
    model = build(name, SERIES).eval()
    batch = torch.randn(4, *SERIES)
    assert torch.allclose(model(batch)[2:3], model(batch[2:3]), atol=1e-5)
