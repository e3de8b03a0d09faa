"""What local steps leave in a checkpoint, and how a training goes on from it."""

from pathlib import Path

import pytest
import torch
from local_sgd_training import ALGORITHMS, SaveEveryEpoch, ddp, max_difference, train

from lightning_modules.zoo.strategy.local_sgd import DiLoCo, LocalSGD
from lightning_modules.zoo.strategy.local_steps import CHECKPOINT_KEY


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "optimizer"),
    [("local_sgd", "momentum"), ("post_local_sgd", "adam"), ("diloco", "adam"), ("async_averaging", "momentum")],
)
def test_a_checkpoint_holds_the_mean_does_not_change_the_training_and_is_resumed_from_bit_by_bit(
    algorithm: str, optimizer: str, tmp_path: Path
) -> None:
    whole = train(ALGORITHMS[algorithm](), optimizer)
    watched = train(ALGORITHMS[algorithm](), optimizer, limit_val_batches=1, callbacks=[SaveEveryEpoch(tmp_path)])
    assert max_difference(watched, whole) == 0.0
    saved = torch.load(tmp_path / "2.ckpt", weights_only=True)
    first, second = (rank["weights"] for rank in saved[CHECKPOINT_KEY]["ranks"])
    assert max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True)) > 1e-6
    of_model = {key.removeprefix("model."): value for key, value in saved["state_dict"].items()}
    assert max_difference(of_model, whole) == 0.0
    assert torch.equal(of_model["0.weight"], (first[0] + second[0]) / 2)
    again = train(ALGORITHMS[algorithm](), optimizer, tmp_path / "0.ckpt")
    assert max_difference(again, whole) == 0.0


@pytest.mark.slow
def test_two_ranks_resume_as_one_and_under_another_strategy(tmp_path: Path) -> None:
    train(DiLoCo(4, threads=1), max_epochs=1, callbacks=[SaveEveryEpoch(tmp_path)])
    mean = torch.load(tmp_path / "0.ckpt", weights_only=True)["state_dict"]["model.0.weight"]
    for strategy, devices in ((DiLoCo(4, threads=1), 1), (LocalSGD(4, threads=1), 2), (ddp(), 2)):
        after = train(strategy, resume=tmp_path / "0.ckpt", max_steps=11, devices=devices)
        assert 0.0 < float((after["0.weight"] - mean).abs().max()) < 0.5  # one step


def test_the_mean_of_the_statistics_of_batch_norm_is_left(tmp_path: Path) -> None:
    left = train(LocalSGD(4, threads=1), callbacks=[SaveEveryEpoch(tmp_path)])
    saved = torch.load(tmp_path / "2.ckpt", weights_only=True)
    first, second = (rank["weights"][-2:] for rank in saved[CHECKPOINT_KEY]["ranks"])
    for name, a, b in zip(("2.running_mean", "2.running_var"), first, second, strict=True):
        assert not torch.equal(a, b)
        assert torch.equal(left[name], (a + b) / 2)
