"""Detection networks: which point finds which box, the losses, and detections of the network's outputs."""

import itertools
from typing import Any

import pytest
import torch
from torchvision.models import detection
from torchvision.ops import box_iou

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.model.fcos import FCOS, STRIDES, assign_boxes, centreness
from lightning_modules.zoo.model.torchvision_detector import TorchvisionDetector

BOXES = torch.tensor(
    [
        [[4.0, 6.0, 40.0, 44.0, 1.0], [50.0, 10.0, 62.0, 20.0, 0.0]],
        [[0.0, 0.0, 70.0, 60.0, 2.0], [-1.0, -1.0, -1.0, -1.0, -1.0]],
        [[-1.0] * 5, [-1.0] * 5],
    ]
)


@pytest.fixture(scope="module")
def fcos() -> FCOS:
    torch.manual_seed(0)
    return FCOS((3, 60, 72), 3, width=8, head_depth=1)


def test_points_are_the_centres_of_the_cells_of_three_grids(fcos: FCOS) -> None:
    outputs = fcos(torch.zeros(1, 3, 60, 72))
    assert outputs.shape == (1, 8 * 9 + 4 * 5 + 2 * 3, 5 + 3) and len(fcos.points) == outputs.shape[1]
    assert fcos.points[[0, 1, 9, 72]].tolist() == [[4, 4], [12, 4], [4, 12], [8, 8]]


def test_a_point_finds_the_smallest_box_of_its_level_that_it_is_near_the_centre_of(fcos: FCOS) -> None:
    source = torch.Generator().manual_seed(0)
    corners = torch.rand(20, 6, 4, generator=source) * 60
    y = torch.cat([corners[..., :2], corners[..., :2] + corners[..., 2:] + 1, torch.zeros(20, 6, 1)], -1)
    y[:, 4:] = -1
    found = assign_boxes(fcos.points, fcos.strides, y)
    ranges = dict(zip(STRIDES, [(0, 64), (64, 128), (128, float("inf"))], strict=True))
    for image, rows in zip(y, found, strict=True):
        for (px, py), stride, row in zip(fcos.points.tolist(), fcos.strides.tolist(), rows.tolist(), strict=True):
            fitting = []
            for k, (x1, y1, x2, y2, label) in enumerate(image.tolist()):
                sides = (px - x1, py - y1, x2 - px, y2 - py)
                near = max(abs(px - (x1 + x2) / 2), abs(py - (y1 + y2) / 2)) < 1.5 * stride
                low, high = ranges[int(stride)]
                if label >= 0 and min(sides) > 0 and near and low < max(sides) <= high:
                    fitting.append(((x2 - x1) * (y2 - y1), k))
            assert row == (min(fitting)[1] if fitting else -1)
    assert {0, 1, 2, 3} <= set(found.flatten().tolist()) and not {4, 5} & set(found.flatten().tolist())


def test_perfect_outputs_are_detected_as_the_boxes_and_have_almost_no_loss(fcos: FCOS) -> None:
    outputs = perfect_outputs(fcos, BOXES)
    found = fcos.detect(outputs)
    for boxes, one in zip(BOXES, found, strict=True):
        truth, kept = boxes[boxes[:, 4] >= 0], one[one[:, 5] >= 0]
        assert len(kept) == len(truth) and bool((one[len(truth) :, 4] == 0).all())
        if not len(truth):
            continue
        order = box_iou(truth[:, :4], kept[:, :4]).argmax(1)
        assert torch.allclose(kept[order, :4], truth[:, :4], atol=1e-3)
        assert torch.equal(kept[order, 5], truth[:, 4])
    losses = fcos.losses(outputs, BOXES)
    assert set(losses) == {"class", "box", "centre"} and losses["class"] < 1e-3 and losses["box"] < 1e-5


def perfect_outputs(fcos: FCOS, y: torch.Tensor) -> torch.Tensor:
    outputs = torch.full((len(y), len(fcos.points), 8), -20.0)
    rows = assign_boxes(fcos.points, fcos.strides, y)
    for i, j in itertools.product(range(len(y)), range(len(fcos.points))):
        if (k := int(rows[i, j])) >= 0:
            box, point = y[i, k], fcos.points[j]
            outputs[i, j, :2], outputs[i, j, 2:4] = (point - box[:2]), (box[2:4] - point)
            outputs[i, j, :4] /= fcos.strides[j]
            outputs[i, j, 4] = torch.logit(centreness(point[None], box[None, :4]).clamp(1e-4, 1 - 1e-4))
            outputs[i, j, 5 + int(box[4])] = 20
    return outputs


def test_each_part_of_the_loss_is_that_of_its_definition(fcos: FCOS) -> None:
    """Tian et al. 2019, equations 2 and 3, and Lin et al. 2017, equation 5, written out."""
    torch.manual_seed(1)
    outputs = torch.randn(3, len(fcos.points), 8)
    outputs[..., :4] = outputs[..., :4].abs()
    rows = assign_boxes(fcos.points, fcos.strides, BOXES)
    focal = box_loss = centre_loss = 0.0
    positive = int((rows >= 0).sum())
    for i, j in itertools.product(range(3), range(len(fcos.points))):
        k, p = int(rows[i, j]), outputs[i, j, 5:].sigmoid()
        for c in range(3):
            hit = k >= 0 and int(BOXES[i, k, 4]) == c
            share, weight = (p[c], 0.25) if hit else (1 - p[c], 0.75)
            focal += float(-weight * (1 - share) ** 2 * share.log())
        if k < 0:
            continue
        box, point = BOXES[i, k, :4], fcos.points[j]
        sides = torch.cat([point - box[:2], box[2:] - point])
        target = (sides[[0, 2]].min() / sides[[0, 2]].max() * sides[[1, 3]].min() / sides[[1, 3]].max()).sqrt()
        logit = outputs[i, j, 4]
        centre_loss += float(-target * logit.sigmoid().log() - (1 - target) * (-logit).sigmoid().log())
        away = outputs[i, j, :4] * fcos.strides[j]
        found = torch.cat([point - away[:2], point + away[2:]])
        low, high = torch.maximum(found[:2], box[:2]), torch.minimum(found[2:], box[2:])
        common = (high - low).clamp(min=0).prod()
        union = (found[2:] - found[:2]).prod() + (box[2:] - box[:2]).prod() - common
        hull = (torch.maximum(found[2:], box[2:]) - torch.minimum(found[:2], box[:2])).prod()
        box_loss += float(1 - common / union + (hull - union) / hull)
    losses = fcos.losses(outputs, BOXES)
    expected = {"class": focal, "box": box_loss, "centre": centre_loss}
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(
        {name: total / positive for name, total in expected.items()}, rel=1e-4
    )


def test_images_without_objects_have_a_finite_loss_with_gradients(fcos: FCOS) -> None:
    losses = fcos.losses(fcos(torch.rand(1, 3, 60, 72)), BOXES[2:])
    torch.stack([*losses.values()]).sum().backward()
    assert losses["box"] == losses["centre"] == 0 and losses["class"].isfinite()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in fcos.parameters())


@pytest.fixture(scope="module")
def ssdlite() -> TorchvisionDetector:
    torch.manual_seed(0)
    return TorchvisionDetector((3, 60, 72), 3)


def torchvision_network(ours: TorchvisionDetector, **settings: Any) -> Any:
    """The network as torchvision builds and calls it, with the same weights, for images of one size."""
    network: Any = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    height, width = ours.image_size
    network.transform.fixed_size, network.transform.min_size, network.transform.max_size = (width, height), (60,), 72
    network.transform.image_mean, network.transform.image_std = [0.0] * 3, [1.0] * 3
    network.transform.size_divisible = 1
    network.score_thresh, network.detections_per_img = 0.01, 100
    state = {key.removeprefix("network."): value for key, value in ours.state_dict().items()}
    network.load_state_dict(state)
    return network


def test_losses_and_detections_are_torchvisions(ssdlite: TorchvisionDetector) -> None:
    network, x = torchvision_network(ssdlite), torch.randn(3, 3, 60, 72)
    targets = [{"boxes": one[:, :4], "labels": one[:, 4].long() + 1} for one in (b[b[:, 4] >= 0] for b in BOXES)]
    ssdlite.train()
    expected = network.train()([*x], targets)
    found = ssdlite.losses(ssdlite(x), BOXES)
    assert found.keys() == expected.keys() and all(torch.equal(found[key], loss) for key, loss in expected.items())
    ssdlite.eval()
    network.load_state_dict({key.removeprefix("network."): value for key, value in ssdlite.state_dict().items()})
    with torch.no_grad():
        boxes = network.eval()([*x])
        detections = ssdlite.detect(ssdlite(x))
    for one, rows in zip(boxes, detections, strict=True):
        count = len(one["scores"])
        assert count and torch.equal(rows[:count, :4], one["boxes"]) and torch.equal(rows[:count, 4], one["scores"])
        assert torch.equal(rows[:count, 5], one["labels"].float() - 1) and bool((rows[count:, 5] == -1).all())


def test_a_loss_in_evaluation_changes_no_statistics_and_no_mode(ssdlite: TorchvisionDetector) -> None:
    ssdlite.eval()
    before = {key: value.clone() for key, value in ssdlite.state_dict().items()}
    with torch.no_grad():
        ssdlite.losses(ssdlite(torch.randn(2, 3, 60, 72)), BOXES[:2])
    assert all(torch.equal(before[key], value) for key, value in ssdlite.state_dict().items())
    assert not any(part.training for part in ssdlite.modules())


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match=r"model\.name=ssdlite: .*ssdlite320_mobilenet_v3_large"):
        TorchvisionDetector((3, 60, 72), 3, name="ssdlite")
    with pytest.raises(UserError, match="would be downloaded"):
        TorchvisionDetector((3, 60, 72), 3, settings={"weights_backbone": "DEFAULT"})
    with pytest.raises(UserError, match=r"needs images \[3, height, width\], the data give \(8,\)"):
        FCOS((8,), 3)
