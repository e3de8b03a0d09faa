"""The claims on MNIST-1D, Fashion-MNIST and the quadratic: composed, read, and built down to a training loss."""

import functools
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from lightning_modules.config.check import check_config
from lightning_modules.config.command_line import compose_run
from lightning_modules.reproduction.claim import Claim, parse_claim
from lightning_modules.run import build
from lightning_modules.zoo.data.image_datasets import IDX_FILES

ROOT = Path(__file__).resolve().parents[2] / "experiments"
CLAIMS = sorted(
    str(path.relative_to(ROOT).with_suffix(""))
    for folder in ("deepobs", "mnist1d", "agarap2017")
    for path in (ROOT / folder).glob("*.yaml")
    if not path.name.startswith("base")
)
SETTLED = ("callbacks", "optimizer", "scheduler", "model", "task", "augmentation", "seed", "trainer")


@pytest.fixture(scope="module")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 300 and 150 images of noise in Fashion-MNIST's files."""
    folder = tmp_path_factory.mktemp("clothes")
    generator = torch.Generator().manual_seed(0)
    for name, count in zip(IDX_FILES, (300, 300, 150, 150), strict=True):
        shape = (count, 28, 28) if "images" in name else (count,)
        values = torch.randint(256 if "images" in name else 10, shape, generator=generator, dtype=torch.uint8)
        header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
        (folder / f"{name}.gz").write_bytes(gzip.compress(header + values.numpy().tobytes(), 1))
    return folder


composed = functools.cache(lambda *words: compose_run(list(words)))


def claim_of(cfg: DictConfig) -> Claim:
    node: Any = OmegaConf.to_container(cfg.claim, resolve=True)
    claim, mistakes = parse_claim(node)
    assert claim is not None, mistakes
    return claim


def built(words: Sequence[str], clothes: Path) -> tuple[Any, Any]:
    cfg = composed(*words).copy()
    check_config(cfg)
    if "root" in cfg.data:
        cfg.data.root = str(clothes)
    data = build.build_data(cfg)
    build.infer_shapes(cfg, data)
    return data, build.build_task(cfg, data, build.build_callbacks(cfg))


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_is_read_and_each_of_its_arms_is_built_down_to_a_loss(name: str, clothes: Path) -> None:
    words = (f"experiment={name}",)
    claim = claim_of(composed(*words))
    for overrides in [arm.overrides for arm in claim.arms] or [()]:
        data, task = built((*words, *overrides), clothes)
        batch = next(iter(data.train_dataloader()))
        batch = {key: value[:8] for key, value in batch.items()}
        assert bool(torch.isfinite(task.training_loss(batch, 0)))
        assert not data.val_parts() or name.startswith("agarap2017/")
        if name.startswith("mnist1d/"):
            assert task.steps_per_call == data.steps_per_epoch() == 40  # the quick way, an epoch at once


@pytest.mark.parametrize("name", [name for name in CLAIMS if name.endswith("_notebook")])
def test_the_numbers_of_readme_and_notebook_are_judged_on_the_same_runs(name: str) -> None:
    configs = [composed(f"experiment={experiment}") for experiment in (name, name.removesuffix("_notebook"))]
    notebook, readme = (claim_of(cfg) for cfg in configs)
    assert notebook.value != readme.value
    assert (notebook.source.kind, readme.source.kind) == ("notebook", "readme")
    assert notebook.seeds == readme.seeds
    assert all(configs[0][key] == configs[1][key] for key in (*SETTLED, "data"))


def test_the_arms_of_the_difference_are_the_runs_of_the_two_networks() -> None:
    arms = claim_of(composed("experiment=agarap2017/softmax_minus_svm")).arms
    for arm, alone in zip(arms, ("cnn_softmax", "cnn_svm"), strict=True):
        of_arm = composed("experiment=agarap2017/softmax_minus_svm", *arm.overrides)
        of_network = composed(f"experiment=agarap2017/{alone}")
        assert all(of_arm[key] == of_network[key] for key in (*SETTLED, "data"))


def test_what_is_trained_for_less_says_so_and_the_whole_is_written_too() -> None:
    for name in (name for name in CLAIMS if name.startswith("agarap2017/") and not name.endswith("_full")):
        short, full = (claim_of(composed(f"experiment={name}{end}")) for end in ("", "_full"))
        assert short.shortened
        assert not full.shortened
        assert (short.value, short.kind) == (full.value, full.kind)
        assert (short.tier, full.tier) == ("cpu", "gpu")


@pytest.mark.parametrize("name", [name for name in CLAIMS if "_epoch" in name])
def test_a_point_of_a_curve_is_trained_for_as_many_epochs(name: str) -> None:
    cfg = composed(f"experiment={name}")
    assert cfg.trainer.max_epochs == claim_of(cfg).epoch == int(name.rpartition("epoch")[2])
