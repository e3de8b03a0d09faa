"""Distillation losses between student and teacher: means over the batch, computed in float32."""

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_target_loss(student: Tensor, teachers: Tensor, temperature: float, kind: str) -> Tensor:
    """``T^2 KL(teacher || student)`` of the distributions softened by T (Hinton et al. 2015, section 2).

    Args:
        student: logits [B, K], or [B, T, K] of T tokens, of which each is a sample.
        teachers: logits [M, B, K] of M teachers, whose softened probabilities are averaged.
        kind: ``multiclass`` (softmax over K); else each output is a Bernoulli variable, and their mean is returned.
    """
    own, theirs = student.flatten(0, -2).float() / temperature, teachers.flatten(1, -2).float() / temperature
    if kind == "multiclass":
        found = F.kl_div(own.log_softmax(-1), theirs.softmax(-1).mean(0), reduction="batchmean")
    else:
        target = theirs.sigmoid().mean(0)
        cross = F.binary_cross_entropy_with_logits(own, target)
        found = cross - F.binary_cross_entropy(target, target)
    return found * temperature**2


def hint_loss(regressed: Tensor, teacher: Tensor) -> Tensor:
    """Half the mean squared difference of features of equal shape (Romero et al. 2015, equation 3)."""
    return 0.5 * F.mse_loss(regressed.float(), teacher.float())


def attention_transfer_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of normalised attention maps (Zagoruyko and Komodakis 2017, section 3.1, F_sum^2).

    Feature maps [B, C, H, W]; only the channels may differ. As in the authors' code the difference is squared and
    averaged over the map, to which their factor of 1000 belongs.
    """
    maps = [F.normalize(a.float().square().mean(1).flatten(1), dim=1) for a in (student, teacher)]
    return (maps[0] - maps[1]).square().mean()


def relational_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Distance loss of pairs plus twice the angle loss of triplets (Park et al. 2019, equations 4 to 8).

    Embeddings [B, …] are flattened; their widths may differ. A batch of one sample gives 0.
    """
    if len(student) < 2:
        return student.float().sum() * 0
    own, theirs = student.float().flatten(1), teacher.float().flatten(1)
    return _distance_loss(own, theirs) + 2 * _angle_loss(own, theirs)


def _distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between Euclidean distances, each divided by the batch's mean distance."""
    own, theirs = (d / d.mean().clamp(min=1e-12) for d in (F.pdist(student), F.pdist(teacher)))
    return F.smooth_l1_loss(own, theirs)


def _angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between the cosines of all angles (j, i, k), [B, B, B]."""
    return F.smooth_l1_loss(_angle_cosines(student), _angle_cosines(teacher))


def _angle_cosines(x: Tensor) -> Tensor:
    towards = F.normalize(x.unsqueeze(0) - x.unsqueeze(1), dim=2)
    return torch.bmm(towards, towards.transpose(1, 2))
