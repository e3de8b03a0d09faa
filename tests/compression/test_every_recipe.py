"""Every recipe on every kind of network: it works and has changed something, or it is refused with a reason."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from lightning_modules.command_line import compose_run
from lightning_modules.compression.artifact import load_compressed, save_compressed
from lightning_modules.compression.form import Form
from lightning_modules.compression.keeper import Keeper
from lightning_modules.compression.phases import Phases
from lightning_modules.compression.recipe import build_recipe, check_recipe
from lightning_modules.compression.stage import Work
from lightning_modules.errors import UserError
from lightning_modules.passport import task_of

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
    from lightning_modules.config.project import PROJECT_ROOT

    options = {path.stem for path in (PROJECT_ROOT / "conf" / "compression").glob("*.yaml")}
    elsewhere = {
        "none", "budget", "prune_and_share", "lottery_ticket", "random_mask", "distillation", "feature_hints",
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


@pytest.mark.parametrize(("recipe", "network"), _cases())
def test_a_recipe_changes_a_network_or_says_why_not(recipe: str, network: str, tmp_path: Path) -> None:
    work, passport = _work(NETWORKS[network], tmp_path)
    dense = {name: tensor.clone() for name, tensor in work.model.state_dict().items()}
    try:
        _compress(recipe, work)
    except UserError as error:
        assert (recipe, network) in REFUSED, str(error)
        assert REFUSED[recipe, network] in str(error)
        return
    assert (recipe, network) not in REFUSED
    x = work.example
    with torch.inference_mode():
        before = work.model.eval()(x)
        written = save_compressed(tmp_path / "model.compressed.safetensors", work.model, work.form, passport)
        loaded = load_compressed(written.path)
        assert torch.allclose(loaded.model(x), before, atol=1e-6)
    after = loaded.model.state_dict()
    changed = after.keys() != dense.keys() or any(
        tensor.dtype != after[name].dtype or tensor.shape != after[name].shape or not torch.equal(tensor, after[name])
        for name, tensor in dense.items()
    )
    assert changed and written.size_bytes < 1.1 * sum(t.numel() * t.element_size() for t in dense.values())


def _work(model: dict[str, Any], folder: Path) -> tuple[Work, dict[str, Any]]:
    passport = {
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
    task = task_of(passport, "the test")
    x = torch.randn(32, *model["input_shape"], generator=torch.Generator().manual_seed(0))
    y = torch.arange(32) % CLASSES

    def batches() -> Iterator[dict[str, Tensor]]:
        for part in torch.arange(32).split(8):
            yield {"x": x[part], "y": y[part], "index": part}

    def evaluate(network: nn.Module) -> float:
        with torch.inference_mode():
            return float((network.eval()(x).argmax(1) == y).float().mean())

    work = Work(
        task=task, form=Form(), example=x[:8], batches=batches, evaluate=evaluate, higher_is_better=True, seed=0,
        folder=folder, log=lambda values: None, initial={k: v.clone() for k, v in task.model.state_dict().items()},
    )  # fmt: skip
    return work, passport


def _compress(name: str, work: Work) -> None:
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
    check_recipe(recipe, work.model, work.example[:2], CLASSES)
    in_fit = Keeper(work, recipe.in_fit)
    for stage in recipe.in_fit:
        stage.begin(work)
    if recipe.in_fit:
        _fit(work, in_fit)
    for stage in recipe.in_fit:
        stage.end(work)
    phases = Phases(recipe, work, lambda stage, keeper, *rest: _fit(work, keeper), work.folder / "points", writes=False)
    list(phases.run())


def _fit(work: Work, keeper: Keeper) -> int:
    keeper.total = STEPS
    optimizer = torch.optim.SGD(work.model.parameters(), lr=0.01)
    work.task.train()
    for _, batch in zip(range(STEPS), work.batches(), strict=False):
        optimizer.zero_grad()
        nn.functional.cross_entropy(work.model(batch["x"]), batch["y"]).backward()
        keeper.before_step()
        optimizer.step()
        keeper.after_step()
    keeper.settle()
    work.task.eval()
    return STEPS
