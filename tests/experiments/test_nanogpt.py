"""nanoGPT's recipes: the sizes and the schedule of the source, and its loop gives the same weights."""

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from lightning_modules.config.check import check_config
from lightning_modules.config.command_line import compose_run
from lightning_modules.data.in_memory import InMemoryData
from lightning_modules.reproduction.compose import compose_claim
from lightning_modules.run import build
from lightning_modules.run.run import run
from lightning_modules.task.supervised import Supervised

SIZES = {  # parameters without positions, as nanoGPT counts them (10.65M and 0.80M), and steps
    "nanogpt/shakespeare_char": (10_646_784, 5000),
    "nanogpt/shakespeare_char_cpu": (795_904, 2000),
    "nanogpt/shakespeare_char_cpu_code": (795_904, 2000),
}
STEPS = 3


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "plays.txt"
    path.write_text("".join(f"KING {i}:\nWhat news of the {i % 7} ships?\n\n" for i in range(200)))
    return path


def test_the_claims_are_composed_as_the_source_trains() -> None:
    for name, sizes in SIZES.items():
        on_cpu = "cpu" in name
        cfg = compose_run([f"experiment={name}"])
        check_config(cfg)
        assert cfg.trainer.accelerator == ("cpu" if on_cpu else "gpu") and cfg.data.stride == 1
        cfg.model.update(input_shape=[cfg.data.block], num_outputs=65)
        model = build.build_model(cfg)
        count = sum(p.numel() for p in model.parameters()) - model.positions.weight.numel()  # type: ignore[union-attr]
        assert (count, cfg.trainer.max_epochs * cfg.trainer.limit_train_batches) == sizes
        assert compose_claim(name).claim.tier == ("cpu" if on_cpu else "gpu")


def test_the_schedule_is_nanogpts_but_for_a_hundredth_of_the_warm_up() -> None:
    cfg = compose_run(["experiment=nanogpt/shakespeare_char_cpu"])
    plan = build.build_scheduler(cfg)
    assert plan is not None
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=cfg.optimizer.lr)
    schedule = plan(optimizer, 2000, 250)["scheduler"]
    for step in range(2000):
        cosine = 1e-4 + 0.5 * (1 + math.cos(math.pi * (step - 100) / 1900)) * 9e-4
        theirs = 1e-3 * (step + 1) / 101 if step < 100 else cosine
        assert optimizer.param_groups[0]["lr"] == pytest.approx(theirs, rel=0.011)
        optimizer.step()
        schedule.step()


def test_training_gives_the_weights_of_a_plain_loop(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["experiment=nanogpt/shakespeare_char_cpu", f"data.path={text}", f"trainer.limit_train_batches={STEPS}"]
    words += ["trainer.max_epochs=2", "scheduler.warmup_steps=2", "tracking=none", "model.depth=1", "model.dim=16"]
    trained: list[Supervised] = []
    end = Supervised.on_fit_end
    monkeypatch.setattr(Supervised, "on_fit_end", lambda self: (trained.append(self), end(self)))
    metrics = run(compose_run(words))
    assert compose_claim("nanogpt/shakespeare_char_cpu").claim.metric in metrics
    cfg = compose_run(words)
    data = build.build_data(cfg)
    build.infer_shapes(cfg, data)
    plain = build.build_model(cfg)
    _train_plainly(plain, data)
    weights = trained[0].model.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in plain.state_dict().items())


def _train_plainly(model: torch.nn.Module, data: InMemoryData) -> None:
    matrices, others = ([p for p in model.parameters() if (p.ndim >= 2) is large] for large in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    step, total, x, y = 0, 2 * STEPS, data.arrays.x, data.arrays.y
    for epoch in range(2):
        sampler = data.train_dataloader().sampler
        sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for index, _ in zip(sampler, range(STEPS), strict=False):
            progress = (step - 1) / (total - 2)
            rate = (step + 1) / 2 if step < 2 else 0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * (rate if step < total - 1 else 0.1)
            logits = model(x.index_select(0, index).long())
            loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), y.index_select(0, index).long().view(-1))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*matrices, *others], 1.0)
            optimizer.step()
            step += 1


@pytest.mark.slow
def test_the_recipe_of_the_gpu_trains_a_step_on_made_text(text: Path) -> None:
    words = ["experiment=nanogpt/shakespeare_char", f"data.path={text}", "trainer=cpu", "trainer.accelerator=cpu"]
    words += ["data.block=32", "data.batch_size=4", "trainer.max_epochs=1", "trainer.limit_train_batches=2"]
    metrics = run(compose_run([*words, "scheduler.warmup_steps=1", "tracking=none"]))
    assert compose_claim("nanogpt/shakespeare_char").claim.metric in metrics
