"""Folders of small images with boxes of coloured rectangles, in each format."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("blue", "red")
PIXELS = {"red": (230, 40, 40), "blue": (40, 40, 230)}
Drawn = list[tuple[str, tuple[int, int, int, int]]]  # class and corners


def draw_images(folder: Path, count: int = 12, width: int = 64, height: int = 48, seed: int = 0) -> dict[str, Drawn]:
    """Write PNG files 0.png and on, every fourth without an object; return what is in each."""
    source = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    drawn: dict[str, Drawn] = {}
    for i in range(count):
        pixels = source.integers(90, 130, (height, width, 3), dtype=np.uint8)
        boxes: Drawn = []
        for k in range(0 if i % 4 == 3 else 1 + i % 2):
            side = int(source.integers(12, 22))
            x, y = int(source.integers(32 * k, 32 * k + 10)), int(source.integers(0, height - side))
            name = CLASSES[int(source.integers(2))]
            pixels[y : y + side, x : x + side] = PIXELS[name]
            boxes.append((name, (x, y, x + side, y + side)))
        Image.fromarray(pixels).save(folder / f"{i}.png")
        drawn[f"{i}.png"] = boxes
    return drawn


def write_voc(root: Path, parts: bool = False) -> dict[str, Drawn]:
    drawn = draw_images(root / "JPEGImages")
    (root / "Annotations").mkdir()
    for name, boxes in drawn.items():
        objects = "".join(
            f"<object>\n<name>{cls}</name><part><name>wheel</name></part>\n<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>\n</object>\n"
            for cls, (x1, y1, x2, y2) in boxes
        )
        text = f"<annotation>\n<filename>{name}</filename>\n{objects}</annotation>\n"
        (root / "Annotations" / f"{Path(name).stem}.xml").write_text(text)
    if parts:
        lists = root / "ImageSets" / "Main"
        lists.mkdir(parents=True)
        stems = [Path(name).stem for name in drawn]
        for part, chosen in (("train", stems[:6]), ("val", stems[6:9]), ("test", stems[9:])):
            (lists / f"{part}.txt").write_text("".join(f"{stem}\n" for stem in chosen))
    return drawn


def write_coco(root: Path) -> dict[str, Drawn]:
    drawn = draw_images(root / "images")
    annotations = [
        {"id": 1, "image_id": i, "category_id": 5 + 2 * CLASSES.index(cls), "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for i, boxes in enumerate(drawn.values())
        for cls, (x1, y1, x2, y2) in boxes
    ]
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(drawn)],
        "categories": [{"id": 7, "name": "red"}, {"id": 5, "name": "blue"}],
        "annotations": annotations,
    }
    (root / "annotations.json").write_text(json.dumps(content))
    return drawn


def write_yolo(root: Path) -> dict[str, Drawn]:
    drawn = draw_images(root / "images")
    (root / "labels").mkdir()
    (root / "data.yaml").write_text("names: {0: blue, 1: red}\n")
    for name, boxes in drawn.items():
        lines = "".join(
            f"{CLASSES.index(cls)} {(x1 + x2) / 128} {(y1 + y2) / 96} {(x2 - x1) / 64} {(y2 - y1) / 48}\n"
            for cls, (x1, y1, x2, y2) in boxes
        )
        if lines:
            (root / "labels" / f"{Path(name).stem}.txt").write_text(lines)
    return drawn


WRITERS = {"voc": write_voc, "coco": write_coco, "yolo": write_yolo}
