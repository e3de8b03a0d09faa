"""Every recipe on every kind of network: it works and has changed something, or it is refused with a reason."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from lightning_modules.compression.artifact import load_compressed, save_compressed
from lightning_modules.compression.compressed_state import CompressedState
from lightning_modules.compression.compression_callback import CompressionCallback
from lightning_modules.compression.recipe import build_recipe, check_recipe
from lightning_modules.compression.stage import StageContext
from lightning_modules.compression.stage_runner import StageRunner
from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.task.task_spec import build_task_from_spec

MODEL, CLASSES, STEPS = "lightning_modules.model", 10, 3
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"_target_": f"{MODEL}.mlp.MLP", "input_shape": [3, 8, 8], "hidden": [40, 24], "activation": "relu"},
    "lenet5": {"_target_": f"{MODEL}.lenet.LeNet5", "input_shape": [1, 20, 20]},
    "resnet20": {"_target_": f"{MODEL}.cifar_resnet.CifarResNet", "input_shape": [3, 12, 12]},
    "vit_tiny": {"_target_": f"{MODEL}.vit.ViT", "input_shape": [1, 8, 8], "depth": 2, "dim": 32},
    "gru": {"_target_": f"{MODEL}.mnist1d.MNIST1DGRU", "input_shape": [40], "hidden_size": 8},
    **{
        name: {"_target_": f"{MODEL}.torchvision_classifier.TorchvisionClassifier", "input_shape": [3, 32, 32], "name": name}
        for name in ("resnet18", "vgg11_bn", "mobilenet_v2")
    },
}  # fmt: skip
RECIPES = (
    "magnitude", "gradual", "snip", "taylor", "movement", "two_four", "codebook", "mixed_bits", "weight_only", "half",
    "channels", "low_rank", "fold", "int8_static", "int8_dynamic", "qat", "deep_compression", "channels_int8",
)  # fmt: skip
QUICK = {"mlp", "gru"}  # the others are slow
PROGRAMS = {
    "int8_static",
    "int8_dynamic",
    "qat",
    "channels_int8",
}  # slow; quantization/ has them on every small network
LARGE = {"resnet18", "vgg11_bn", "mobilenet_v2"}  # with one recipe of each kind
OF_A_KIND = {"magnitude", "channels", "fold", "int8_static"}
REFUSED = {  # what cannot be done to a network, and why
    **{("fold", name): "batch norm" for name in ("mlp", "lenet5", "vit_tiny", "gru")},
    ("channels", "gru"): "recurrent",
    **{("two_four", name): "a number of inputs" for name in (*NETWORKS.keys() - {"mlp"},)},
}


def test_every_recipe_is_looked_at() -> None:
    from lightning_modules.config.project import CONF

    options = {path.stem for path in (CONF / "compression").glob("*.yaml")}
    elsewhere = {
        "none", "prune_and_share", "lottery_ticket", "random_mask", "distillation", "feature_hints",
        "attention_transfer", "relational",
    }  # fmt: skip
    assert options == {*RECIPES, *elsewhere}


def _marks(recipe: str, network: str) -> list[Any]:
    if network in QUICK and recipe not in PROGRAMS:
        return []
    long = network in LARGE or recipe not in OF_A_KIND
    return [pytest.mark.slow, *([pytest.mark.long] if long else [])]


def _cases() -> list[Any]:
    return [
        pytest.param(recipe, network, marks=_marks(recipe, network))
        for recipe in RECIPES
        for network in NETWORKS
        if (recipe in OF_A_KIND if network in LARGE else recipe not in PROGRAMS or network == "lenet5")
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "network"), _cases())
def test_a_recipe_changes_a_network_or_says_why_not(recipe: str, network: str, tmp_path: Path) -> None:
    context, task_spec = _work(NETWORKS[network], tmp_path)
    dense = {name: tensor.clone() for name, tensor in context.model.state_dict().items()}
    try:
        _compress(recipe, context)
    except UserError as error:
        assert (recipe, network) in REFUSED, str(error)
        assert REFUSED[recipe, network] in str(error)
        return
    assert (recipe, network) not in REFUSED
    x = context.example
    with torch.inference_mode():
        before = context.model.eval()(x)
        written = save_compressed(tmp_path / "model.compressed.safetensors", context.model, context.state, task_spec)
        loaded = load_compressed(written.path)
        assert torch.allclose(loaded.model(x), before, atol=1e-6)
    after = loaded.model.state_dict()
    changed = after.keys() != dense.keys() or any(
        tensor.dtype != after[name].dtype or tensor.shape != after[name].shape or not torch.equal(tensor, after[name])
        for name, tensor in dense.items()
    )
    assert changed and written.size_bytes < 1.1 * sum(t.numel() * t.element_size() for t in dense.values())


def _work(model: dict[str, Any], folder: Path) -> tuple[StageContext, dict[str, Any]]:
    task_spec = {
        "name": "network",
        "model": {**model, "num_outputs": CLASSES},
        "task": {
            "_target_": "lightning_modules.task.classification.Classification",
            "loss": {"_target_": "torch.nn.CrossEntropyLoss"},
            "num_outputs": CLASSES,
        },
        "preprocess": {"_target_": "torch.nn.Identity"},
    }
    torch.manual_seed(0)
    task = build_task_from_spec(task_spec, "the test")
    x = torch.randn(32, *model["input_shape"], generator=torch.Generator().manual_seed(0))
    y = torch.arange(32) % CLASSES

    def batches() -> Iterator[dict[str, Tensor]]:
        for part in torch.arange(32).split(8):
            yield {"x": x[part], "y": y[part], "index": part}

    def evaluate(network: nn.Module) -> float:
        with torch.inference_mode():
            return float((network.eval()(x).argmax(1) == y).float().mean())

    context = StageContext(
        task=task, state=CompressedState(), example=x[:8], batches=batches, evaluate=evaluate, higher_is_better=True, seed=0,
        folder=folder, log=lambda values: None, initial={k: v.clone() for k, v in task.model.state_dict().items()},
    )  # fmt: skip
    return context, task_spec


def _compress(name: str, context: StageContext) -> None:
    """The recipe as the run does it, with a few plain steps in the place of each fit."""
    node = compose_run([f"compression={name}"]).compression
    OmegaConf.set_struct(node, False)
    for stage in node.stages.values():
        if stage.get("epochs"):
            stage.epochs = 1
        if "every" in stage:
            stage.every = 1
        if "samples" in stage:
            stage.samples = 16
    recipe = build_recipe(node)
    check_recipe(recipe, context, context.example[:2], CLASSES, "val/accuracy")
    in_fit = CompressionCallback(context, recipe.in_fit)
    for stage in recipe.in_fit:
        stage.begin(context)
    if recipe.in_fit:
        _fit(context, in_fit)
    for stage in recipe.in_fit:
        stage.end(context)
    phases = StageRunner(
        recipe,
        context,
        lambda stage, acting, *rest: (_fit(context, acting[-1]), False),
        context.folder / "points",
        writes=False,
    )
    list(phases.run())


def _fit(context: StageContext, keeper: CompressionCallback) -> int:
    keeper.total = STEPS
    optimizer = torch.optim.SGD(context.model.parameters(), lr=0.01)
    context.task.train()
    for _, batch in zip(range(STEPS), context.batches(), strict=False):
        optimizer.zero_grad()
        nn.functional.cross_entropy(context.model(batch["x"]), batch["y"]).backward()
        keeper.before_step()
        optimizer.step()
        keeper.after_step()
    keeper.settle()
    context.task.eval()
    return STEPS
