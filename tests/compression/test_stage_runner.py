"""A recipe through a whole run: dense, pruned, shared; saved, loaded back, measured, recorded, resumed."""

import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lightning_modules.compression import container
from lightning_modules.compression.artifact import FILE, load_compressed
from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.config.signals import SignalReceived
from lightning_modules.run.run import run
from lightning_modules.tracking.artifacts import local_folder
from lightning_modules.tracking.rerun import metric_histories
from lightning_modules.zoo.data.image_datasets import Digits

QUICK = (
    "trainer.max_epochs=2", "data.per_class=10", "model=mlp", "tracking.system_metrics_s=null",
    "tracking.pictures=false", "~callbacks.progress", "~callbacks.summary",
)  # fmt: skip
DEEP = (
    "compression=deep_compression",
    "compression.stages.prune.epochs=3",
    "compression.stages.prune.every=1",
    "compression.stages.share.bits=3",
    "compression.runtimes=[eager]",
)


def models_of(store: Any, found: Any) -> dict[str, Any]:
    models = store.client.search_logged_models([found.info.experiment_id], f"source_run_id = '{found.info.run_id}'")
    return {model.name: model for model in models}


def file_of(model: Any) -> Path:
    folder = local_folder(model.artifact_location)
    assert folder is not None
    return folder / FILE


def accuracy_of(path: Path) -> float:
    task, data = load_compressed(path), Digits()
    data.setup()
    index = data.splits["test"]
    with torch.inference_mode():
        return float((task(data.arrays.x[index]).argmax(1) == data.arrays.y[index]).float().mean())


def test_every_stage_leaves_a_model_made_from_the_one_before_it(store: Any, train: Any) -> None:
    found = train(*DEEP)
    models = models_of(store, found)
    assert set(models) == {"digits-mlp", "digits-mlp-1-prune", "digits-mlp-2-share"}
    assert models["digits-mlp-1-prune"].tags["touchstone.parent_model_id"] == models["digits-mlp"].model_id
    assert models["digits-mlp-2-share"].tags["touchstone.parent_model_id"] == models["digits-mlp-1-prune"].model_id
    assert found.data.tags["touchstone.compressed_model_id"] == models["digits-mlp-2-share"].model_id
    assert all("READY" in str(model.status) for model in models.values())
    outputs = {output.model_id for output in found.outputs.model_outputs}
    assert outputs == {model.model_id for model in models.values()}
    measured = {name: {m.key: m.value for m in model.metrics} for name, model in models.items()}
    sizes = [measured[name]["compressed/size_bytes"] for name in ("digits-mlp-1-prune", "digits-mlp-2-share")]
    assert (
        found.data.metrics["dense/size_bytes"]
        > sizes[0]
        > sizes[1]
        == file_of(models["digits-mlp-2-share"]).stat().st_size
    )


@pytest.mark.slow
def test_what_is_reported_is_what_the_saved_file_gives(store: Any, train: Any) -> None:
    found = train(*DEEP)
    metrics = found.data.metrics
    for name, model in models_of(store, found).items():
        if name != "digits-mlp":
            own = {m.key: m.value for m in model.metrics}
            assert accuracy_of(file_of(model)) == pytest.approx(own["compressed/test/accuracy"])
    assert metrics["compression/ratio"] == metrics["dense/size_bytes"] / metrics["compressed/size_bytes"]
    assert metrics["dense/test/accuracy"] == metrics["test/accuracy"]
    assert metrics["compressed/nonzero"] < 0.2 * metrics["dense/nonzero"] == 0.2 * metrics["compressed/params"]
    assert metrics["compressed/latency_ms"] > 0 and metrics["dense/macs"] == metrics["compressed/macs"]
    _, tensors, state = container.read(file_of(models_of(store, found)["digits-mlp-2-share"]))
    for name, mask in state.masks.items():
        assert len(tensors[name][mask].unique()) <= 8 and not tensors[name][~mask].any()
    folder = local_folder(found.info.artifact_uri)
    assert folder is not None and (folder / "compression" / "comparison.png").stat().st_size > 5000
    assert "| share |" in (folder / "compression" / "table.md").read_text()


@pytest.mark.slow
def test_a_finished_run_is_compressed_without_training(store: Any, train: Any) -> None:
    dense = train("data.per_class=40")
    start = (f"init_from={dense.info.run_id}", "trainer.max_epochs=0", "data.per_class=40")
    found = train(*start, "compression=weight_only", "compression.runtimes=[eager]")
    assert found.info.status == "FINISHED"
    assert found.data.metrics["dense/test/accuracy"] == dense.data.metrics["test/accuracy"]
    assert 3 < found.data.metrics["compression/ratio"] < 5
    assert abs(found.data.metrics["compressed/test/accuracy"] - found.data.metrics["dense/test/accuracy"]) < 0.05


class Stop(pl.Callback):
    """Ends the process's run at the start of an epoch, as a Ctrl-C would."""

    def __init__(self, kind: str, epoch: int) -> None:
        self.kind, self.epoch = kind, epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stages = [c for c in trainer.callbacks if type(c).__name__ == self.kind]  # type: ignore[attr-defined]
        if stages and trainer.current_epoch == self.epoch:
            raise SignalReceived(2)


def last_file(store: Any, found: Any) -> dict[str, torch.Tensor]:
    model = store.client.get_logged_model(found.data.tags["touchstone.compressed_model_id"])
    tensors: dict[str, torch.Tensor] = container.read(file_of(model))[1]
    return tensors


def untimed_histories(store: Any, run_id: str) -> dict[str, list[tuple[int, float]]]:
    timed = ("latency", "peak_memory", "speedup")
    return {k: v for k, v in metric_histories(store, run_id).items() if not any(word in k for word in timed)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Gradual", "WeightSharing"])
def test_a_recipe_that_is_cut_off_ends_as_if_it_had_not_been(
    store: Any, train: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_modules.run import build

    each = (
        *DEEP, "callbacks.last.every_s=0", "compression.stages.share.epochs=2", "trainer.max_epochs=3",
        "optimizer.lr=0.3", "trainer.log_every_n_steps=1",
    )  # fmt: skip
    whole = train(*each)
    real = build.build_callbacks
    monkeypatch.setattr(build, "build_callbacks", lambda cfg: [*real(cfg), Stop(kind, 1)])
    with pytest.raises(SignalReceived):
        train(*each)
    monkeypatch.setattr(build, "build_callbacks", real)
    experiment = whole.info.experiment_id
    cut = next(r for r in store.client.search_runs([experiment]) if r.info.run_id != whole.info.run_id)
    assert cut.info.status == "KILLED"
    run(compose_run([f"resume={cut.info.run_id}"]))
    resumed = store.client.get_run(cut.info.run_id)
    assert resumed.info.status == "FINISHED"
    ours, theirs = last_file(store, resumed), last_file(store, whole)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    resumed_points, points = (untimed_histories(store, r.info.run_id) for r in (resumed, whole))
    assert resumed_points == points
    assert points["test/loss"][0][0] < 6, "the best weights are the last: a fit that counts from them overlaps nothing"
    for name, history in points.items():
        steps = [step for step, _ in history]
        assert steps == sorted(set(steps)), name
    per_epoch = 2  # fits of 3, 3 and 2 epochs, one after the other on one axis
    assert [step for step, _ in points["val/loss"]] == [per_epoch * epoch for epoch in range(1, 9)]


@pytest.mark.slow
def test_both_ranks_hold_one_mask_and_one_codebook_and_give_what_one_process_gives(store: Any, train: Any) -> None:
    each = (*DEEP, "optimizer=sgd", "data.per_class=16", "data.drop_last=true")
    two = train(*each, "trainer=ddp", "trainer.devices=2", "trainer.max_epochs=2", "data.batch_size=8")
    one = train(*each, "data.batch_size=16")
    ours, theirs = last_file(store, two), last_file(store, one)
    for name, tensor in ours.items():
        assert torch.equal(tensor == 0, theirs[name] == 0)
        assert torch.allclose(tensor, theirs[name], atol=1e-4)


@pytest.mark.slow
def test_averaged_weights_keep_the_zeros(store: Any, train: Any) -> None:
    found = train(
        "callbacks=ema", "callbacks.ema.decay=0.9", "compression=gradual", "compression.stages.prune.when=fit",
        "compression.stages.prune.epochs=0", "compression.stages.prune.sparsity=0.75", "compression.runtimes=[]",
        "compression.stages.prune.every=1",
    )  # fmt: skip
    _, tensors, state = container.read(file_of(models_of(store, found)["digits-mlp-1-prune"]))
    zeros = sum(int((tensors[name] == 0).sum()) for name in state.masks)
    assert zeros == round(0.75 * sum(mask.numel() for mask in state.masks.values()))
    assert "dense/test/accuracy" not in found.data.metrics  # none was trained


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("compression.stages.prune.sparsity=1.2",), "sparsity=1.2"),
        (("compression.stages.prune.layers=[layer.0]",), "no layer matches layer.0"),
        (("compression.runtimes=[tensorrt]",), "compression.runtimes=tensorrt"),
        (("+compression.stage=1",), "compression.stage: unknown setting"),
        (("compression.stages.share.bits=9",), "bits=9"),
    ],
)
def test_a_wrong_recipe_is_refused_before_anything_is_trained(
    store: Any, train: Any, overrides: tuple[str, ...], said: str
) -> None:
    with pytest.raises(Exception, match="compression") as refused:
        train(*DEEP, *overrides)
    assert said in str(refused.value.__cause__ or refused.value)
    assert not store.client.search_runs([e.experiment_id for e in store.client.search_experiments()])


def test_pruning_after_shared_values_is_refused() -> None:
    from omegaconf import OmegaConf

    from lightning_modules.compression.recipe import build_recipe

    stages = {
        "share": {"_target_": "lightning_modules.compression.quantization.weight_sharing.WeightSharing", "bits": 4},
        "prune": {"_target_": "lightning_modules.compression.pruning.one_shot.OneShot", "sparsity": 0.5},
    }
    with pytest.raises(UserError, match=r"stages.prune: cannot follow share: its shared values would be lost"):
        build_recipe(OmegaConf.create({"stages": stages}))
    lottery = {"_target_": "lightning_modules.compression.pruning.lottery.LotteryTicket", "sparsity": 0.5, "epochs": 1}
    channels = {
        "_target_": "lightning_modules.compression.structured.structured_pruning.StructuredPruning",
        "macs_ratio": 0.5,
    }
    with pytest.raises(UserError, match=r"stages.prune: rewinds to the initial weights"):
        build_recipe(OmegaConf.create({"stages": {"channels": channels, "prune": lottery}}))
    with pytest.raises(UserError, match=r"stages.again: share already did this"):
        build_recipe(OmegaConf.create({"stages": {"share": stages["share"], "again": stages["share"]}}))


@pytest.mark.slow
def test_a_file_of_another_network_is_refused(store: Any, train: Any, tmp_path: Path) -> None:
    from lightning_modules.compression.artifact import load_into

    found = train(*DEEP)
    path = file_of(models_of(store, found)["digits-mlp-2-share"])
    task = load_compressed(path)
    task.model = torch.nn.Linear(64, 10)
    with pytest.raises(UserError, match="does not fit this network"):
        load_into(task, path)
    header = container.read_header(path)
    assert json.dumps(header["passport"])
