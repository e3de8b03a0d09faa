"""Losses, features, regressors and caches of distillation, each by itself."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from handmade import SmallNet, draw
from torch import Tensor

from lightning_modules.compression.distillation import losses
from lightning_modules.compression.distillation.distillation import Distillation
from lightning_modules.compression.distillation.feature_matching import FeatureHooks, make_regressor
from lightning_modules.compression.distillation.teacher import LogitCache
from lightning_modules.config.errors import UserError


# --- losses ------------------------------------------------------------------------------------------------------
def test_soft_targets_of_two_classes_are_as_computed_by_hand() -> None:
    t = 2.0
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[[2.0, 0.0]]])
    p = torch.tensor([1.0, 0.0]).softmax(0)
    by_hand = t * t * float((p * (p / 0.5).log()).sum())
    assert float(losses.soft_target_loss(student, teacher, t, "multiclass")) == pytest.approx(by_hand, rel=1e-5)


def test_soft_targets_are_zero_for_a_student_that_says_the_same_in_every_kind_of_task() -> None:
    logits = draw(5, 4)
    for kind in ("multiclass", "binary", "multilabel"):
        assert float(losses.soft_target_loss(logits, logits[None], 3.0, kind)) == pytest.approx(0, abs=1e-5)
        assert float(losses.soft_target_loss(logits, logits[None] + draw(5, 4, seed=1), 3.0, kind)) > 0.01


def test_soft_targets_of_tokens_are_the_mean_over_tokens() -> None:
    student, teacher = draw(3, 5, 4), draw(2, 3, 5, 4, seed=1)
    flat = losses.soft_target_loss(student.reshape(15, 4), teacher.reshape(2, 15, 4), 2.0, "multiclass")
    torch.testing.assert_close(losses.soft_target_loss(student, teacher, 2.0, "multiclass"), flat)


def test_the_gradient_of_soft_targets_does_not_shrink_with_a_high_temperature() -> None:
    """Hinton et al., equation 4: with zero-mean logits it tends to (student - teacher) / K."""
    student, teacher = (z - z.mean(1, keepdim=True) for z in (draw(1, 4), draw(1, 4, seed=1)))
    student.requires_grad_()
    losses.soft_target_loss(student, teacher[None], 1000.0, "multiclass").backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, (student - teacher).detach() / 4, rtol=0.02, atol=1e-3)


def test_an_ensemble_is_the_mean_of_its_probabilities() -> None:
    student, teachers = draw(6, 3), draw(2, 6, 3, seed=1)
    mean = (teachers / 4).softmax(-1).mean(0)
    reference = 16 * F.kl_div((student / 4).log_softmax(-1), mean, reduction="batchmean")
    assert losses.soft_target_loss(student, teachers, 4.0, "multiclass") == reference


def test_attention_transfer_looks_at_where_and_not_at_how_much_or_in_how_many_channels() -> None:
    teacher = draw(2, 6, 4, 4)
    assert float(losses.attention_transfer_loss(3 * teacher[:, :1].expand(-1, 5, -1, -1), teacher[:, :1])) < 1e-12
    moved = losses.attention_transfer_loss(teacher.roll(1, 3), teacher)
    maps = [F.normalize((a**2).mean(1).flatten(1)) for a in (teacher.roll(1, 3), teacher)]
    assert float(moved) == pytest.approx(float(((maps[0] - maps[1]) ** 2).mean()), rel=1e-5)


def test_relations_do_not_change_with_scale_and_rotation_but_with_the_order_of_the_samples() -> None:
    teacher = draw(6, 3)
    rotation = torch.linalg.qr(draw(3, 3, seed=2))[0]
    assert float(losses.relational_loss(5 * teacher @ rotation + 1, teacher)) < 1e-8
    assert float(losses.relational_loss(teacher.flip(0)[:, :2], teacher)) > 1e-3


def test_relations_of_three_points_are_as_computed_by_hand() -> None:
    student = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    teacher = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    own, theirs = torch.tensor([1, 1, 2**0.5]), torch.tensor([1.0, 2.0, 1.0])
    distance = F.smooth_l1_loss(own / own.mean(), theirs / theirs.mean())
    # cosines of (j, i, k), each of the three corners twice: 0, sqrt(1/2), sqrt(1/2) against 1, -1, 1
    differences = torch.tensor([1 - 0.0, 1 + 0.5**0.5, 1 - 0.5**0.5])
    angle = 2 * F.smooth_l1_loss(differences, torch.zeros(3), reduction="sum") / 27
    assert float(losses.relational_loss(student, teacher)) == pytest.approx(float(distance + 2 * angle), rel=1e-5)


def test_a_batch_of_one_sample_has_no_relations_and_leaves_gradients_finite() -> None:
    one = draw(1, 3).requires_grad_()
    losses.relational_loss(one, draw(1, 5)).backward()
    same = torch.zeros(4, 3, requires_grad=True)
    losses.relational_loss(same, draw(4, 3)).backward()
    assert one.grad is not None and not one.grad.any()
    assert same.grad is not None and same.grad.isfinite().all()


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((2, 3, 5, 5), (2, 7, 5, 5)), ((2, 3), (2, 8)), ((2, 9, 3), (2, 9, 8)), ((2, 3, 9), (2, 8, 9))],
)
def test_a_regressor_gives_features_the_teachers_shape(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    assert make_regressor(draw(*student), draw(*teacher))(draw(*student)).shape == teacher


def test_features_that_are_not_alike_have_no_regressor() -> None:
    with pytest.raises(UserError, match=r"shape \[3\] to \[3, 4, 4\]"):
        make_regressor(draw(2, 3), draw(2, 3, 4, 4))


# --- hooks and cache ---------------------------------------------------------------------------------------------
def test_hooks_give_what_a_layer_gave_and_leave_with_the_fit() -> None:
    net = SmallNet(3)
    features = FeatureHooks(net, ["conv", "head"], "the student")
    out = net(draw(2, 1, 8, 8))
    conv, head = features.take()
    assert conv.shape == (2, 3, 8, 8) and head is out
    features.remove()
    assert not net.conv._forward_hooks and not net.head._forward_hooks


def test_a_layer_that_is_not_there_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="the teacher has no layer 'haed': did you mean 'head'"):
        FeatureHooks(SmallNet(3), ["haed"], "the teacher")


def test_a_cache_asks_the_teacher_once_for_each_sample_and_survives_a_checkpoint() -> None:
    x, cache = draw(20, 4), LogitCache()
    asked: list[int] = []

    def ask(part: Tensor) -> Tensor:
        asked.append(len(part))
        return torch.stack([part[:, :3], -part[:, :3]])

    for index in (torch.tensor([3, 1]), torch.tensor([19, 3, 4]), torch.tensor([1, 3, 4, 19])):
        found = cache.look_up({"x": x[index], "index": index}, ask)
        assert torch.equal(found, torch.stack([x[index, :3], -x[index, :3]]))
    again = LogitCache()
    again.load_state_dict(cache.state_dict())
    again.look_up({"x": x[[19]], "index": torch.tensor([19])}, ask)
    assert asked == [2, 2] and cache.computed == 4


# --- settings ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": 0.0}, "temperature=0.0: expected more than 0"),
        ({"alpha": 1.5}, r"alpha=1.5: expected a value in \[0, 1\]"),
        ({"alpha": 0.0}, "nothing is learned"),
        ({"term": "hint", "layers": {"a": "b"}}, "term=hint: did you mean 'hints'"),
        ({"term": "hints"}, "needs the layers to compare"),
        ({"layers": {"a": "b"}}, "layers need a term"),
        ({"teacher": []}, "at least one"),
        ({"teacher": ["a", "b"], "term": "hints", "layers": {"a": "b"}}, "only the outputs of an ensemble"),
        ({"cache": True, "term": "hints", "layers": {"a": "b"}}, "not features"),
        ({"epochs": 3}, "only a stage with when=after"),
    ],
)
def test_settings_that_make_no_sense_are_refused_when_the_stage_is_built(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Distillation(**{"teacher": "a run", **settings})


# --- a student with a teacher of the store -----------------------------------------------------------------------
