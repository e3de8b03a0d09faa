"""The claims on sentences: composed, built on made data, and trained a little."""

from pathlib import Path

import pytest
from text_datasets import write_reviews, write_trec

from lightning_modules.config.check import check_config
from lightning_modules.config.command_line import compose_run
from lightning_modules.reproduction.compose import compose_claim
from lightning_modules.run import build
from lightning_modules.run.preflight import check_parts
from lightning_modules.run.run import run
from lightning_modules.zoo.model.text import KimCNN

LITTLE = ("trainer.max_epochs=1", "tracking=none", "~callbacks.progress", "~callbacks.summary")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_trec(root, copies=10, tests=2)
    write_reviews(root, 60)
    return root


@pytest.mark.parametrize(
    ("name", "parts"),
    [("trec", (54, 6, 12)), ("trec_paper", (54, 6, 12)), ("mr", (49, 5, 6)), ("mr_paper", (49, 5, 6))],
)
def test_a_claim_is_built_as_the_paper_has_it(name: str, parts: tuple[int, ...], made: Path) -> None:
    cfg = compose_run([f"experiment=kim2014/{name}", f"data.root={made}"])
    check_config(cfg)
    data = build.build_data(cfg)
    build.infer_shapes(cfg, data)
    callbacks = build.build_callbacks(cfg)
    task = build.build_task(cfg, data, callbacks)
    check_parts(cfg, task, data, callbacks)
    assert isinstance(task.model, KimCNN) and task.model.head.max_norm == 3
    assert tuple(len(data.splits[part]) for part in ("train", "val", "test")) == parts
    assert (cfg.data.batch_size, cfg.trainer.max_epochs, cfg.optimizer.rho) == (50, 25, 0.95)


@pytest.mark.parametrize("name", ["trec", "mr"])
def test_the_rerun_and_the_paper_are_judged_on_the_same_runs(name: str) -> None:
    rerun, paper = (compose_claim(f"kim2014/{name}{end}") for end in ("", "_paper"))
    assert rerun.claim.value != paper.claim.value
    assert (rerun.claim.seeds, rerun.claim.folds) == (paper.claim.seeds, paper.claim.folds)
    assert all(
        rerun.cfg[key] == paper.cfg[key] for key in ("data", "model", "optimizer", "trainer", "task", "callbacks")
    )


def test_it_trains_and_is_tested(made: Path) -> None:
    metrics = run(compose_run(["experiment=kim2014/trec", f"data.root={made}", *LITTLE]))
    assert 0 <= metrics["test/accuracy"] <= 1
