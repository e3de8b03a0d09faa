"""What a student is compared with, where its teacher comes from, and which teachers are refused."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from handmade import SmallNet, draw
from torch import nn

from lightning_modules.compression.distillation import losses
from lightning_modules.compression.distillation.distillation import Distillation
from lightning_modules.compression.distillation.teacher import load_teacher
from lightning_modules.config.errors import UserError
from lightning_modules.task.classification import Classification


# --- losses ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def database_with_a_run(train_once: Callable[..., Path]) -> Path:
    return train_once("data.per_class=60", "trainer.max_epochs=4")


@pytest.fixture
def teacher(recorded_run: Any) -> Any:
    """A recorded run on digits that has learned something."""
    return recorded_run


def checked(
    settings: dict[str, Any], net: nn.Module, outputs: int = 10, shape: tuple[int, ...] = (1, 8, 8)
) -> Distillation:
    stage = Distillation(**settings)
    stage.name = "distil"
    stage.check(net, torch.zeros(2, *shape), outputs)
    return stage


def test_teachers_that_do_not_suit_are_refused_before_training(teacher: Any, train: Any) -> None:
    run = {"teacher": teacher.info.run_id}
    with pytest.raises(UserError, match=r"stages.distil: teacher=.* has 10 outputs, but the student has 7"):
        checked(run, SmallNet(4, 7), 7)
    with pytest.raises(UserError, match=r"takes samples of shape \[1, 8, 8\], but the student takes \[1, 9, 9\]"):
        checked(run, SmallNet(4), shape=(1, 9, 9))
    with pytest.raises(UserError, match="the student has no layer 'convo': did you mean 'conv'"):
        checked({**run, "term": "hints", "layers": {"convo": "head"}}, SmallNet(4))
    with pytest.raises(UserError, match="the teacher has no layer 'conv'"):
        checked({**run, "term": "hints", "layers": {"conv": "conv"}}, SmallNet(4))
    with pytest.raises(UserError, match="feature maps"):
        checked({**run, "term": "attention", "layers": {"head": "head"}}, SmallNet(4))
    with pytest.raises(UserError, match=r"no run 'nobody'"):
        checked({"teacher": "nobody"}, SmallNet(4))
    names = [f"digit {i}" for i in range(10)]
    task = Classification(SmallNet(4), nn.CrossEntropyLoss(), num_outputs=10, class_names=names)
    with pytest.raises(UserError, match=r"has the classes 0, 1, 2.*the student has digit 0"):
        checked(run, SmallNet(4)).check_task(task)
    task = Classification(SmallNet(4, 10), nn.BCEWithLogitsLoss(), num_outputs=10, kind="multilabel")
    with pytest.raises(UserError, match="trained for multiclass, but the student's task is multilabel"):
        checked(run, SmallNet(4)).check_task(task)
    task = Classification(SmallNet(4), nn.CrossEntropyLoss(), num_outputs=10, augmentation=nn.Identity())
    with pytest.raises(UserError, match="augmentation=none"):
        checked({**run, "cache": True}, SmallNet(4)).check_task(task)


def test_a_teacher_is_found_by_run_by_model_and_by_registered_name(teacher: Any, store: Any) -> None:
    model_id = teacher.data.tags["touchstone.model_id"]
    store.client.create_registered_model("digits teacher")
    store.client.create_model_version("digits teacher", f"models:/{model_id}", teacher.info.run_id, model_id=model_id)
    store.client.set_registered_model_alias("digits teacher", "best", "1")
    x = torch.randint(0, 17, (4, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wanted = (
        teacher.info.run_id, f"runs:/{teacher.info.run_id}", str(teacher.info.run_name), f"models:/{model_id}",
        "models:/digits teacher/1", "models:/digits teacher@best",
    )  # fmt: skip
    found = [load_teacher(name, None, (1, 8, 8), 10).logits(x, nn.Identity()) for name in wanted]
    assert found[0].shape == (1, 4, 10) and all(torch.equal(logits, found[0]) for logits in found)
    assert load_teacher(wanted[:2], None, (1, 8, 8), 10).logits(x, nn.Identity()).shape == (2, 4, 10)
    with pytest.raises(UserError, match="no model is registered as digits taecher: did you mean 'digits teacher'"):
        load_teacher("models:/digits taecher/1", None, (1, 8, 8), 10)
    with pytest.raises(UserError, match="models:/m-none"):
        load_teacher("models:/m-none", None, (1, 8, 8), 10)


def test_a_torchvision_teacher_needs_weights_with_a_head_for_these_classes(tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(0)
    net = torchvision.models.squeezenet1_1(num_classes=10).eval()
    torch.save(net.state_dict(), tmp_path / "ten.pth")
    x = draw(1, 3, 32, 32)
    found = load_teacher("torchvision:squeezenet1_1", str(tmp_path / "ten.pth"), (3, 32, 32), 10)
    assert torch.equal(found.logits(x, nn.Identity())[0], net(x))
    with pytest.raises(UserError, match="needs trained weights"):
        load_teacher("torchvision:squeezenet1_1", None, (3, 32, 32), 10)
    with pytest.raises(UserError, match="no head for the student's 7 classes"):
        load_teacher("torchvision:squeezenet1_1", str(tmp_path / "ten.pth"), (3, 32, 32), 7)
    with pytest.raises(UserError, match=r"did you mean 'squeezenet1_1'"):
        load_teacher("torchvision:squeezenet11", str(tmp_path / "ten.pth"), (3, 32, 32), 10)
    with pytest.raises(UserError, match="only teacher=torchvision"):
        load_teacher("a run", str(tmp_path / "ten.pth"), (3, 32, 32), 10)


def by_hand(stage: Distillation, net: nn.Module, steps: int, lr: float = 0.01) -> list[float]:
    """The stage around `steps` steps as a fit calls it; the losses."""
    task = Classification(net, nn.CrossEntropyLoss(), num_outputs=10)
    stage.attach(task)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    x = torch.randint(0, 17, (16, 1, 8, 8), generator=torch.Generator().manual_seed(3)).float()
    batch = {"x": x, "y": torch.arange(16) % 10, "index": torch.arange(16)}
    found = []
    for step in range(steps):
        outputs = task(batch["x"])
        loss = stage.loss(task.loss(outputs, batch["y"]), outputs, batch)
        optimizer.zero_grad()
        loss.backward()
        stage.before_step(None, step, steps)  # type: ignore[arg-type]
        optimizer.step()
        found.append(loss.item())
    stage.detach()
    return found


TERMS: dict[str, dict[str, Any]] = {
    "soft targets": {"alpha": 1.0},
    "cached": {"alpha": 1.0, "cache": True},
    "hints": {"alpha": 0.0, "term": "hints", "layers": {"head": "head"}, "weight": 10.0},
    "relational": {"alpha": 0.0, "term": "relational"},
}


def test_a_student_comes_nearer_to_its_teacher_by_every_term(teacher: Any) -> None:
    for name, settings in TERMS.items():
        torch.manual_seed(0)
        net = SmallNet(4)
        found = by_hand(checked({"teacher": teacher.info.run_id, **settings}, net), net, 25)
        assert found[-1] < 0.9 * found[0], name
        assert not net.head._forward_hooks
    assert load_teacher(teacher.info.run_id, None, (1, 8, 8), 10).members[0].network.training is False


def test_regressors_are_trained_and_a_resumed_stage_goes_on_with_them_bit_for_bit(teacher: Any) -> None:
    settings = {"teacher": teacher.info.run_id, "hint_lr": 0.1, **TERMS["hints"]}

    def run(*lengths: int) -> tuple[list[float], Distillation]:
        torch.manual_seed(0)
        net, found, state = SmallNet(4).requires_grad_(False), [], None
        net.conv.bias.requires_grad_()  # nothing of the student learns, but the loss needs something that could
        for steps in lengths:
            stage = checked(settings, net)
            if state is not None:
                stage.load_state_dict(state)
            found += by_hand(stage, net, steps, lr=0.0)
            state = stage.state_dict()
        return found, stage

    whole, stage = run(8)
    assert whole[-1] < 0.9 * whole[0], "the regressor alone brings it down"
    assert run(3, 5)[0] == whole
    assert stage.hints.state_dict()["regressors"].keys() == {"0.weight", "0.bias"}


@pytest.mark.slow
def test_attention_moves_a_student_towards_where_its_teacher_looks(train: Any) -> None:
    run = train("model=convnet")
    layers = {"conv": first_conv(run.info.run_id)}
    torch.manual_seed(0)
    net = SmallNet(4)
    stage = checked({"teacher": run.info.run_id, "alpha": 0.0, "term": "attention", "layers": layers}, net)
    found = by_hand(stage, net, 25)
    assert found[-1] < 0.9 * found[0]


def first_conv(run_id: str) -> str:
    network = load_teacher(run_id, None, (1, 8, 8), 10).members[0].network
    return next(name for name, module in network.named_modules() if isinstance(module, nn.Conv2d))


# --- whole runs --------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_run_learns_from_its_teacher_and_its_checkpoint_is_the_student_alone(
    teacher: Any, train: Any, store: Any
) -> None:
    from lightning_modules.run.serve import load_task
    from lightning_modules.tracking.resume import best_checkpoint

    distil = ("compression=distillation", f"compression.stages.distil.teacher={teacher.info.run_id}")
    run = train(*distil, "compression.stages.distil.cache=true", "data.per_class=20")
    plain = train("data.per_class=20")
    assert run.data.metrics["val/loss"] != plain.data.metrics["val/loss"]
    student = load_task(best_checkpoint(store, run))
    assert student.state_dict().keys() == load_task(best_checkpoint(store, plain)).state_dict().keys()
    again = train(*distil, "data.per_class=20")
    assert again.data.metrics["val/loss"] == pytest.approx(run.data.metrics["val/loss"], rel=1e-4)


def test_a_wrong_teacher_is_one_message_and_nothing_is_trained(teacher: Any, train: Any, store: Any) -> None:
    before = store.client.search_runs([teacher.info.experiment_id])
    with pytest.raises(UserError, match=r"compression.stages.distil: teacher=.*takes samples of shape \[1, 8, 8\]"):
        train(
            "data=tabular", "compression=distillation", f"compression.stages.distil.teacher={teacher.info.run_id}",
            "data.name=digits",
        )  # fmt: skip
    assert len(store.client.search_runs([teacher.info.experiment_id])) == len(before)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["feature_hints", "attention_transfer", "relational"])
def test_recipes_with_a_term_train_a_student(recipe: str, train: Any) -> None:
    run = train("model=convnet")
    conv = first_conv(run.info.run_id)
    layers = [] if recipe == "relational" else [f"compression.stages.distil.layers={{{conv}:{conv}}}"]
    distil = (f"compression={recipe}", f"compression.stages.distil.teacher={run.info.run_id}", *layers)
    student = train("model=convnet", "seed=1", *distil)
    assert student.info.status == "FINISHED"
    assert student.data.metrics["train/loss"] != train("model=convnet", "seed=1").data.metrics["train/loss"]


def test_a_mixed_batch_with_soft_labels_is_shown_to_the_teacher_as_it_is(teacher: Any) -> None:
    net = SmallNet(4)
    stage = checked({"teacher": teacher.info.run_id, "alpha": 0.5}, net)
    task = Classification(net, nn.CrossEntropyLoss(), num_outputs=10)
    stage.attach(task)
    x = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).float() / 255
    x, y = (
        0.3 * x + 0.7 * x.flip(0),
        0.3 * F.one_hot(torch.arange(6), 10) + 0.7 * F.one_hot(torch.arange(6).flip(0), 10),
    )
    outputs = task(x)
    own = task.loss(outputs, y)
    logits = load_teacher(teacher.info.run_id, None, (1, 8, 8), 10).logits(x, nn.Identity())
    expected = 0.5 * own + 0.5 * losses.soft_target_loss(outputs, logits, 4.0, "multiclass")
    assert torch.equal(stage.loss(own, outputs, {"x": x, "y": y, "index": torch.arange(6)}), expected)


@pytest.mark.slow
def test_a_teacher_stays_on_through_pruning(teacher: Any, train: Any, store: Any) -> None:
    """The masks of the pruning stage stay in force, and its fine-tuning has the teacher's loss."""
    from lightning_modules.run.serve import load_task, model_weights

    teach = f"teacher:{teacher.info.run_id},when:always"
    stage = (
        "+compression.stages.distil={_target_:lightning_modules.compression.distillation.distillation.Distillation,%s}"
    )
    pruning = ("compression=magnitude", "compression.stages.prune.epochs=1", "compression.stages.prune.sparsity=0.8")
    run = train(*pruning, stage % teach)
    task = load_task(model_weights(store, f"models:/{run.data.tags['touchstone.compressed_model_id']}"))
    weights = torch.cat([p.detach().flatten() for n, p in task.model.named_parameters() if p.ndim > 1])
    assert float((weights == 0).float().mean()) == pytest.approx(0.8, abs=0.01)
    assert train(*pruning).data.metrics["compressed/test/loss"] != run.data.metrics["compressed/test/loss"]


@pytest.mark.parametrize(
    "term",
    [
        ("compression=feature_hints", "compression.stages.distil.layers={head:head}"),
        pytest.param(("compression=distillation", "compression.stages.distil.cache=true"), marks=pytest.mark.slow),
    ],
    ids=["hints", "cache"],
)
def test_a_resumed_student_is_bit_equal_to_the_uninterrupted_one(
    term: tuple[str, ...], teacher: Any, train: Any, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_modules.config.signals import SignalReceived
    from lightning_modules.run.serve import load_task
    from lightning_modules.task.supervised import Supervised
    from lightning_modules.tracking.resume import best_checkpoint

    words = (
        *term, f"compression.stages.distil.teacher={teacher.info.run_id}", "trainer.max_epochs=4", "seed=1",
        "callbacks.last.every_s=0",
    )  # fmt: skip
    whole = train(*words)
    start = Supervised.on_train_epoch_start

    def kill(self: Supervised) -> None:
        start(self)
        if self.current_epoch == 2:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SignalReceived):
        patch.setattr(Supervised, "on_train_epoch_start", kill)
        train(*words)
    resumed = train(f"resume={newest(store)}", quick=False)
    ours, theirs = (load_task(best_checkpoint(store, run)).state_dict() for run in (resumed, whole))
    assert resumed.info.run_id != whole.info.run_id and all(torch.equal(ours[key], theirs[key]) for key in theirs)


def newest(store: Any) -> str:
    everywhere = [experiment.experiment_id for experiment in store.client.search_experiments()]
    found = store.client.search_runs(everywhere, order_by=["attributes.start_time DESC"], max_results=1)
    return str(found[0].info.run_id)


@pytest.mark.slow
def test_two_processes_teach_as_one_with_the_same_global_batch(teacher: Any, train: Any, store: Any) -> None:
    from lightning_modules.run.serve import load_task
    from lightning_modules.tracking.resume import best_checkpoint

    words = (
        "compression=feature_hints", "compression.stages.distil.layers={head:head}", "optimizer=momentum", "seed=1",
        f"compression.stages.distil.teacher={teacher.info.run_id}", "data.drop_last=true", "data.per_class=64",
    )  # fmt: skip
    two = train("trainer=ddp", "data.batch_size=32", *words)
    one = train("data.batch_size=64", *words)
    ours, theirs = (load_task(best_checkpoint(store, run)).state_dict() for run in (two, one))
    assert max(float((ours[key].double() - theirs[key].double()).abs().max()) for key in theirs) < 1e-5
