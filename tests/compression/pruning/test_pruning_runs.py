"""Pruning recipes through whole runs: what is in the saved file, after a cut too, and with two processes."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

from lightning_modules.compression import container
from lightning_modules.compression.artifact import FILE
from lightning_modules.compression.compressed_state import CompressedState
from lightning_modules.config.command_line import compose_run
from lightning_modules.config.signals import SignalReceived
from lightning_modules.run.run import run
from lightning_modules.tracking.artifacts import local_folder

SHORT = ("compression.runtimes=[]", "model.hidden=[32,16]")


def saved(store: Any, found: Any) -> tuple[dict[str, torch.Tensor], CompressedState]:
    model = store.client.get_logged_model(found.data.tags["touchstone.compressed_model_id"])
    folder = local_folder(model.artifact_location)
    assert folder is not None
    _, tensors, state = container.read(folder / FILE)
    return tensors, state


def check_zeros(store: Any, found: Any, sparsity: float) -> None:
    """Exactly so many, in the file itself: 64 x 32 + 32 x 16 + 16 x 10 weights."""
    tensors, state = saved(store, found)
    assert sorted(state.masks) == ["head.weight", "hidden.0.weight", "hidden.1.weight"]
    assert all(torch.equal(tensors[name] != 0, mask) for name, mask in state.masks.items())
    zeros = sum(int((tensors[name] == 0).sum()) for name in state.masks)
    assert zeros == sum(round(sparsity * n) for n in (2048, 512, 160))


@pytest.mark.parametrize(
    ("recipe", "sparsity", "more"),
    [
        ("snip", 0.75, ()),
        ("lottery_ticket", 0.75, ("compression.stages.prune.rounds=2",)),
        pytest.param(
            "magnitude",
            0.75,
            ("compression.stages.prune.epochs=1", "compression.stages.prune.sensitivity=true"),
            marks=pytest.mark.slow,
        ),
        pytest.param("movement", 0.75, ("compression.stages.prune.epochs=2",), marks=pytest.mark.slow),
        pytest.param("taylor", 0.75, ("compression.stages.prune.epochs=1",), marks=pytest.mark.slow),
        pytest.param("random_mask", 0.75, ("compression.stages.prune.epochs=1",), marks=pytest.mark.slow),
        pytest.param("two_four", 0.5, ("compression.stages.prune.epochs=1",), marks=pytest.mark.slow),
    ],
)
def test_the_saved_file_has_as_many_zeros_as_asked_for(
    store: Any, train: Any, recipe: str, sparsity: float, more: tuple[str, ...]
) -> None:
    asked = () if recipe == "two_four" else (f"compression.stages.prune.sparsity={sparsity}",)
    found = train(f"compression={recipe}", *SHORT, *asked, *more)
    check_zeros(store, found, sparsity)
    if recipe == "magnitude":
        folder = local_folder(found.info.artifact_uri)
        assert folder is not None and (folder / "compression" / "sensitivity.png").stat().st_size > 5000


class Stop(pl.Callback):
    """Ends the run at the start of an epoch of the last fit that a ticket is trained in."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stages = [c for c in trainer.callbacks if type(c).__name__ in ("LotteryTicket", "Movement")]  # type: ignore[attr-defined]
        if stages and trainer.current_epoch == 1 and (stages[0].rounds == 1 or stages[0].rewind_state):
            raise SignalReceived(2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        ("compression=lottery_ticket", "compression.stages.prune.rounds=2", "compression.stages.prune.rewind_epochs=1"),
        ("compression=movement", "compression.stages.prune.epochs=3", "compression.stages.prune.every=1"),
    ],
)
def test_a_schedule_that_is_cut_off_ends_as_if_it_had_not_been(
    store: Any, train: Any, recipe: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_modules.run import build

    each = (*recipe, *SHORT, "callbacks.last.every_s=0")
    whole = train(*each)
    real = build.build_callbacks
    monkeypatch.setattr(build, "build_callbacks", lambda cfg: [*real(cfg), Stop()])
    with pytest.raises(SignalReceived):
        train(*each)
    monkeypatch.setattr(build, "build_callbacks", real)
    runs = store.client.search_runs([whole.info.experiment_id])
    cut = next(found for found in runs if found.info.run_id != whole.info.run_id)
    run(compose_run([f"resume={cut.info.run_id}"]))
    ours, theirs = saved(store, store.client.get_run(cut.info.run_id))[0], saved(store, whole)[0]
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["snip", "movement"])
def test_two_processes_find_the_masks_of_one(store: Any, train: Any, recipe: str) -> None:
    each = (f"compression={recipe}", *SHORT, "optimizer=sgd", "data.per_class=16", "data.drop_last=true")
    two = train(*each, "trainer=ddp", "trainer.devices=2", "trainer.max_epochs=2", "data.batch_size=8")
    # SNIP looks at so many batches: here at the same 64 samples
    samples = ("compression.stages.prune.batches=4",) if recipe == "snip" else ()
    one = train(*each, "data.batch_size=16", *samples)
    ours, theirs = saved(store, two)[1].masks, saved(store, one)[1].masks
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(mask, theirs[name]) for name, mask in ours.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["magnitude", "gradual", "lottery_ticket", "snip", "movement", "taylor", "random_mask", "two_four"]
)
def test_a_control_is_one_override_away_in_every_recipe(name: str) -> None:
    from lightning_modules.compression.recipe import build_recipe

    node = compose_run([f"compression={name}"]).compression
    assert [stage.kind for stage in build_recipe(node).stages] == ["pruning"]
    for control in () if name == "random_mask" else ("random", "reinit", "dense"):
        assert node.stages.prune.control is None
        changed = OmegaConf.merge(node, {"stages": {"prune": {"control": control}}})
        assert build_recipe(changed).stages[0].settings()["control"] == control
