"""COCO's metrics of random boxes are those of pycocotools, exactly."""

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch
from optional_package import require_package
from torch import Tensor

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.task.detection_metrics import BoxMetrics

pytestmark = pytest.mark.slow  # of the extra `detection`
IMAGES, CLASSES, MOST = 400, 3, 12
NAMES = ("map", "map_50", "map_75", "mar_100", "class_map")


@pytest.fixture(autouse=True)
def _packages() -> None:
    require_package("faster_coco_eval")
    require_package("pycocotools")


def random_boxes(count: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Detections [N, K, 6] and boxes [N, M, 5]: found ones moved a little, false ones, images without either; tied scores."""
    boxes, found = torch.full((count, MOST, 5), -1.0), torch.full((count, 2 * MOST, 6), -1.0)
    found[..., 4] = 0
    for i in range(count):
        many = int(torch.randint(0, MOST + 1, (), generator=source)) * int(i % 5 > 0)
        corners = torch.rand(many, 2, generator=source) * 200
        sides = torch.rand(many, 2, generator=source) ** 2 * 120 + 1
        boxes[i, :many, :4] = torch.cat([corners, corners + sides], 1)
        boxes[i, :many, 4] = torch.randint(0, CLASSES, (many,), generator=source).float()
        moved = boxes[i, :many].clone()
        moved[:, :4] += torch.randn(many, 4, generator=source) * sides.repeat(1, 2) * 0.08
        moved = moved[torch.rand(many, generator=source) < 0.8]
        false = torch.cat([torch.rand(3, 2, generator=source) * 150, torch.rand(3, 2, generator=source) * 99 + 150], 1)
        false = torch.cat([false, torch.randint(0, CLASSES, (3, 1), generator=source).float()], 1)
        some = torch.cat([moved, false[: int(i % 7 > 0) * 3]])
        some[:, 2:4] = torch.maximum(some[:, 2:4], some[:, :2] + 1)
        scores = (torch.rand(len(some), 1, generator=source) * 20).round() / 20
        found[i, : len(some)] = torch.cat([some[:, :4], scores, some[:, 4:]], 1)
    return found, boxes


def pycocotools_metrics(found: Tensor, boxes: Tensor) -> tuple[dict[str, float], list[float]]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def entries(rows: Tensor, label: int) -> list[dict[str, Any]]:
        listed = [(i, row) for i, image in enumerate(rows) for row in image if row[label] >= 0]
        return [
            {
                "id": number + 1,
                "image_id": i,
                "category_id": int(row[label]),
                "bbox": [float(row[0]), float(row[1]), float(row[2] - row[0]), float(row[3] - row[1])],
                "area": float((row[2] - row[0]) * (row[3] - row[1])),
                "iscrowd": 0,
                **({"score": float(row[4])} if label == 5 else {}),
            }
            for number, (i, row) in enumerate(listed)
        ]

    with contextlib.redirect_stdout(io.StringIO()):
        truth, result = COCO(), COCO()
        named = {"images": [{"id": i} for i in range(len(boxes))], "categories": [{"id": c} for c in range(CLASSES)]}
        truth.dataset, result.dataset = (
            {**named, "annotations": entries(boxes, 4)},
            {**named, "annotations": entries(found, 5)},
        )
        for side in (truth, result):
            side.createIndex()
        judged = COCOeval(truth, result, "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    stats = dict(zip(NAMES[:4], (judged.stats[i] for i in (0, 1, 2, 8)), strict=True))
    precision = judged.eval["precision"][:, :, :, 0, 2]  # IoU, recall, class of all areas and 100 detections
    by_class = [precision[:, :, c][precision[:, :, c] > -1] for c in range(CLASSES)]
    return stats, [float(np.mean(values)) for values in by_class]


def test_metrics_are_those_of_pycocotools() -> None:
    found, boxes = random_boxes(IMAGES, torch.Generator().manual_seed(0))
    assert sum(bool((image[:, 4] < 0).all()) for image in boxes) > 80 < sum(map(len, found))
    metric = BoxMetrics(NAMES, CLASSES)
    for part in range(0, IMAGES, 64):
        metric.update(found[part : part + 64], boxes[part : part + 64])
    ours = metric.compute()
    stats, by_class = pycocotools_metrics(found, boxes)
    assert 0.1 < stats["map"] < stats["map_50"] < 1
    for name, value in stats.items():
        assert float(ours[name]) == float(torch.tensor(value, dtype=torch.float32)), name
    assert ours["class_map"].tolist() == torch.tensor(by_class, dtype=torch.float32).tolist()


def test_a_class_without_boxes_is_nan_and_so_is_everything_without_any() -> None:
    found, boxes = random_boxes(20, torch.Generator().manual_seed(1))
    boxes[..., 4][boxes[..., 4] == 2] = 1
    metric = BoxMetrics(NAMES, CLASSES)
    metric.update(found, boxes)
    by_class = metric.compute()["class_map"]
    assert by_class[:2].isfinite().all() and by_class[2].isnan()
    metric.reset()
    metric.update(found, torch.full_like(boxes, -1))
    assert metric.compute()["map"].isnan()


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(UserError, match=r"unknown metric 'map50' for detection; .*map_50"):
        BoxMetrics(["map50"], CLASSES)
