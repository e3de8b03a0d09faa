"""The experiments on time series, Sonar and MovieLens: composed, built and trained a little on made data of their shape."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from lightning_modules.config.check import check_config
from lightning_modules.config.command_line import compose_run
from lightning_modules.reproduction.claim import parse_claim
from lightning_modules.run import build
from lightning_modules.run.preflight import check_parts
from lightning_modules.run.run import run

ROOT = Path(__file__).resolve().parents[2] / "experiments"
PAPERS = ("dl4tsc", "sonar1988", "surprise")
EXPERIMENTS = sorted(
    f"{paper}/{file.stem}"
    for paper in PAPERS
    for file in (ROOT / paper).glob("*.yaml")
    if not file.stem.startswith("base")
)
# what is built: training samples, parameters, whether many steps are taken in a call
EXPECTED = {
    "dl4tsc/fcn_italy_power_demand": (67, 264_962, True),
    "dl4tsc/fcn_japanese_vowels": (270, 277_129, True),
    "dl4tsc/mlp_italy_power_demand": (67, 514_502, True),
    "dl4tsc/resnet_italy_power_demand": (67, 504_258, True),
    "sonar1988/hidden0": (192, 122, True),
    "sonar1988/hidden12": (192, 758, True),
    "sonar1988/hidden2": (192, 128, True),
    "surprise/baseline_mae": (1600, 2625, False),
    "surprise/baseline_rmse": (1600, 2625, False),
    "surprise/svd_mae": (1600, 265_125, True),
    "surprise/svd_rmse": (1600, 265_125, True),
}
LITTLE = ("trainer.max_epochs=1", "tracking=none", "~callbacks.progress", "~callbacks.summary")


def write_series(path: Path, count: int, dimensions: int, length: int, classes: int) -> None:
    """A .ts file; where there are several dimensions, only the first series is `length` long."""
    draws, lines = np.random.RandomState(0), []
    for i in range(count):
        values = draws.randn(dimensions, length - (i % 4 if dimensions > 1 else 0))
        lines.append(":".join([*(",".join(f"{v:.3f}" for v in row) for row in values), str(i % classes + 1)]))
    path.parent.mkdir(exist_ok=True)
    path.write_text("@classLabel true\n@data\n" + "\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with sets of the true shapes; of the ratings a fiftieth."""
    root, draws = tmp_path_factory.mktemp("data"), np.random.RandomState(0)
    for part, italian, japanese in (("TRAIN", 67, 270), ("TEST", 30, 30)):
        write_series(root / "ItalyPowerDemand" / f"ItalyPowerDemand_{part}.ts", italian, 1, 24, 2)
        write_series(root / "JapaneseVowels" / f"JapaneseVowels_{part}.ts", japanese, 12, 29, 9)
    (root / "sonar").mkdir()
    rows = [",".join(f"{v:.4f}" for v in draws.rand(60)) + "," + "RM"[i >= 97] for i in range(208)]
    (root / "sonar" / "sonar.all-data").write_text("\n".join(rows))
    (root / "ml-100k").mkdir()
    pairs = [(i % 943 + 1, i % 1682 + 1) for i in range(2000)]
    rated = [f"{user}\t{item}\t{draws.randint(1, 6)}\t{i}" for i, (user, item) in enumerate(pairs)]
    (root / "ml-100k" / "u.data").write_text("\n".join(rated))
    return root


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_is_composed_and_its_data_model_and_task_are_built(experiment: str, made: Path) -> None:
    cfg = compose_run([f"experiment={experiment}", f"data.root={made}"])
    check_config(cfg)
    data = build.build_data(cfg)
    build.infer_shapes(cfg, data)
    callbacks = build.build_callbacks(cfg)
    task = build.build_task(cfg, data, callbacks)
    check_parts(cfg, task, data, callbacks)
    size = sum(p.numel() for p in task.model.parameters())
    assert (len(data.splits["train"]), size, task.steps_per_call > 1) == EXPECTED[experiment]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_its_claim_is_one_and_its_metric_is_measured(experiment: str) -> None:
    cfg = compose_run([f"experiment={experiment}"])
    node: Any = OmegaConf.to_container(cfg.claim, resolve=True)
    claim, mistakes = parse_claim(node)
    assert claim is not None and not mistakes
    assert claim.metric.removeprefix("test/") in cfg.task.metrics.test
    assert claim.folds == cfg.data.folds
    assert (claim.selection == "lowest_train_loss") == ("best" in cfg.callbacks)


@pytest.mark.parametrize("experiment", ["dl4tsc/fcn_italy_power_demand", "sonar1988/hidden2", "surprise/svd_rmse"])
def test_it_trains_and_is_tested(experiment: str, made: Path) -> None:
    name = OmegaConf.to_container(compose_run([f"experiment={experiment}"]).task.metrics)["test"][0]  # type: ignore[call-overload, index]
    metrics = run(compose_run([f"experiment={experiment}", f"data.root={made}", *LITTLE]))
    assert 0 < metrics[f"test/{name}"] < 5
