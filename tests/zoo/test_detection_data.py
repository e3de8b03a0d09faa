"""Boxes from COCO, VOC and YOLO folders: one target format, official parts, and what wrong annotations say."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from box_folders import CLASSES, WRITERS, write_coco, write_voc, write_yolo
from hydra.utils import instantiate
from PIL import Image

from lightning_modules.config.errors import UserError
from lightning_modules.data.preprocess import preprocess_spec
from lightning_modules.zoo.data.detection_data import DetectionFolder

DATA = Path(os.environ.get("TOUCHSTONE_DATA", "data"))  # a fixture removes the variable


def read(root: Path, format: str, **settings: Any) -> DetectionFolder:
    data = DetectionFolder(root=root, format=format, size=[48, 64], **settings)  # type: ignore[arg-type]
    data.setup()
    return data


def boxes_of(data: DetectionFolder, i: int) -> list[list[float]]:
    row = data.arrays.y[i]
    return row[row[:, 4] >= 0].tolist()


@pytest.mark.parametrize("format", WRITERS)
def test_each_format_gives_the_boxes_that_were_drawn_and_images_without_objects_are_samples(
    format: str, tmp_path: Path
) -> None:
    drawn = WRITERS[format](tmp_path / "folder")
    data = read(tmp_path / "folder", format)
    assert data.box_classes == list(CLASSES) and data.num_targets == 2
    images: Any = data.arrays.x
    for i, name in enumerate(drawn if format == "coco" else sorted(drawn)):
        expected = sorted([*map(float, corners), float(CLASSES.index(cls))] for cls, corners in drawn[name])
        found = sorted(boxes_of(data, i))
        assert len(found) == len(expected)
        assert torch.allclose(torch.tensor(found), torch.tensor(expected), atol=1e-3)
        for x1, y1, x2, y2, label in found:  # the box is around the rectangle in the image, too
            pixels = images[i][:, round(y1) : round(y2), round(x1) : round(x2)].float()
            assert pixels[0 if CLASSES[int(label)] == "red" else 2].mean() > 200
    assert sum(len(index) for index in data.splits.values()) == 12 and [] in drawn.values()


def test_official_parts_are_kept_and_others_are_split_by_seed(tmp_path: Path) -> None:
    write_voc(tmp_path / "parts", parts=True)
    data = read(tmp_path / "parts", "voc")
    assert {part: len(index) for part, index in data.splits.items()} == {"train": 6, "val": 3, "test": 3}
    assert data.arrays.test is not None and len(data.arrays.test[1]) == 3
    (tmp_path / "plain").mkdir()
    write_coco(tmp_path / "plain" / "x")
    splits = [read(tmp_path / "plain" / "x", "coco", split_seed=seed).splits["train"].tolist() for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


def test_images_are_scaled_in_their_shape_and_boxes_with_them(tmp_path: Path) -> None:
    write_voc(tmp_path / "folder")
    data = DetectionFolder(root=tmp_path / "folder", format="voc", size=[96, 96])
    data.setup()
    plain = read(tmp_path / "folder", "voc")
    scaled = plain.arrays.y[..., :4] * 1.5
    some = plain.arrays.y[..., 4] >= 0
    assert torch.allclose(data.arrays.y[..., :4][some], scaled[some])
    x: Any = data.arrays.x
    assert x.shape == (12, 3, 96, 96) and bool((x[:, :, 72:] == 114).all()) and not bool((x[:, :, :72] == 114).all())


def test_the_fingerprint_is_that_of_images_boxes_and_size(tmp_path: Path) -> None:
    write_yolo(tmp_path / "folder")
    known = read(tmp_path / "folder", "yolo").fingerprint()
    assert read(tmp_path / "folder", "yolo").fingerprint() == known
    assert read(tmp_path / "folder", "yolo", in_memory=False, num_workers=0).fingerprint() == known
    assert DetectionFolder(root=tmp_path / "folder", format="yolo", size=[96, 96]).fingerprint() != known
    label = next((tmp_path / "folder" / "labels").glob("*.txt"))
    label.write_text(label.read_text().replace("0.", "0.0", 1))
    assert read(tmp_path / "folder", "yolo").fingerprint() != known


def test_images_decoded_on_access_are_those_in_memory(tmp_path: Path) -> None:
    write_yolo(tmp_path / "folder")
    kept, decoded = (read(tmp_path / "folder", "yolo", in_memory=keep, num_workers=0) for keep in (True, False))
    index = torch.tensor([3, 0])
    assert not decoded.in_memory and torch.equal(kept.arrays.x[index], decoded.arrays.x.index_select(0, index))  # type: ignore[index]


def test_the_preprocessing_is_recorded_with_the_classes(tmp_path: Path) -> None:
    write_yolo(tmp_path / "folder")
    data = read(tmp_path / "folder", "yolo")
    again = instantiate(preprocess_spec(data.preprocess), _convert_="all")
    x = data.example(2)
    assert again.class_names == list(CLASSES) and torch.equal(again(x), data.preprocess(x))


def test_boxes_outside_are_clipped_and_those_without_area_left_out_in_one_warning_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_yolo(tmp_path / "folder")
    (tmp_path / "folder" / "labels" / "3.txt").write_text("0 0.0 0.5 0.5 0.5\n0 0.5 0.5 0.0 0.5\n1 1.5 0.5 0.5 0.5\n")
    data = read(tmp_path / "folder", "yolo")
    said = " ".join(capsys.readouterr().err.split())
    assert "1 boxes are clipped to their image" in said and "3.txt, line 1" in said
    assert "2 boxes are left out, as they have no area" in said and "3.txt, line 2" in said
    at = sorted(str(i) for i in range(12)).index("3")
    assert boxes_of(data, at) == [[0.0, 12.0, 16.0, 36.0, 0.0]]


def _edit(file: str, old: str, new: str, times: int = 1) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / file).read_text()
        assert old in text
        (root / file).write_text(text.replace(old, new, times))

    return change


def _entry(**changes: Any) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        content = json.loads((root / "annotations.json").read_text())
        content["annotations"][1].update(changes)
        (root / "annotations.json").write_text(json.dumps(content))

    return change


def _label(text: str) -> Callable[[Path], Any]:
    return lambda root: (root / "labels" / "3.txt").write_text(text)


DAMAGED: dict[str, tuple[str, Callable[[Path], Any], dict[str, Any], str]] = {
    "missing image of voc": ("voc", lambda root: (root / "JPEGImages" / "0.png").unlink(), {}, "0.xml: the image '0' is missing"),
    "no number": ("voc", _edit("Annotations/0.xml", "<xmin>", "<xmin>a"), {}, "0.xml, line 3: expected a bndbox"),
    "no corner": ("voc", _edit("Annotations/0.xml", "xmin>", "left>", 2), {}, "line 3: expected a bndbox"),
    "no name": ("voc", _edit("Annotations/0.xml", "name>", "nick>", 4), {}, "line 3: the object has no name"),
    "no xml": ("voc", _edit("Annotations/0.xml", "</annotation>", ""), {}, "0.xml is no readable XML.*line 8"),
    "entities": ("voc", _edit("Annotations/0.xml", "<ann", '<!DOCTYPE a>\n<ann'), {}, "line 1: a document"),
    "unknown class of voc": ("voc", lambda root: None, {"classes": ["green", "red"]}, r"xml, line \d+: unknown class 'blue'"),
    "missing image of coco": ("coco", lambda root: (root / "images" / "1.png").unlink(), {}, "json, image 1: the image '1.png'"),
    "unknown id": ("coco", _entry(image_id=99), {}, r"json, annotations\[1\]: no image has this image_id"),
    "unknown category": ("coco", _entry(category_id=1), {}, r"annotations\[1\]: unknown class: no category has the id 1"),
    "short box": ("coco", _entry(bbox=[1, 2, 3]), {}, r"annotations\[1\]: expected bbox=\[x, y, width, height\]"),
    "no number in json": ("coco", _entry(bbox=[1, 2, 3, float("nan")]), {}, r"annotations\[1\]: expected bbox"),
    "no json": ("coco", _edit("annotations.json", "{", "{,"), {}, "annotations.json, line 1: no valid JSON"),
    "no lists": ("coco", _edit("annotations.json", "categories", "cats"), {}, "expected COCO's lists"),
    "missing image of yolo": ("yolo", lambda root: (root / "images" / "1.png").unlink(), {}, "1.txt: the image '1' is missing"),
    "short line": ("yolo", _label("\n0 1 2\n"), {}, "3.txt, line 2: expected class x y"),
    "unknown number": ("yolo", _label("2 0 0 1 1\n"), {}, "line 1: unknown class '2'"),
    "no names": ("yolo", lambda root: (root / "data.yaml").write_text("nc: 2"), {}, "data.yaml: expected names"),
    "no image": ("yolo", lambda root: [file.unlink() for file in root.rglob("*.[pt][nx][gt]")], {}, "has no image"),
    "damaged image": ("yolo", lambda root: (root / "images" / "1.png").write_bytes(b"x"), {}, "1.png cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_wrong_annotations_are_one_error_with_file_and_line(name: str, tmp_path: Path) -> None:
    format, damage, settings, said = DAMAGED[name]
    WRITERS[format](tmp_path / "folder")
    damage(tmp_path / "folder")
    with pytest.raises(UserError) as raised:
        read(tmp_path / "folder", format, **settings)
    assert re.search(said, str(raised.value)) and len(str(raised.value).splitlines()) == 1


def test_an_image_shown_sideways_has_its_shown_size(tmp_path: Path) -> None:
    write_yolo(tmp_path / "folder")
    file = tmp_path / "folder" / "images" / "0.png"
    image = Image.open(file)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(file, exif=exif)
    (tmp_path / "folder" / "labels" / "0.txt").write_text("0 0.5 0.5 1 1\n")
    x1, y1, x2, y2, _ = boxes_of(read(tmp_path / "folder", "yolo"), 0)[0]
    assert (x1, y1, x2, y2) == (0, 0, 36, 48)  # 48 wide and 64 high


@pytest.mark.slow
def test_bccd_has_its_own_parts_and_classes() -> None:
    if not (root := DATA / "bccd" / "BCCD").is_dir():
        pytest.skip(f"needs BCCD in {root}: set TOUCHSTONE_DATA")
    data = instantiate({"_target_": "lightning_modules.zoo.data.detection_data.Bccd", "root": root, "size": [96, 128]})
    data.setup()
    assert {part: len(index) for part, index in data.splits.items()} == {"train": 205, "val": 87, "test": 72}
    assert data.box_classes == ["Platelets", "RBC", "WBC"]
    y = torch.cat([data.arrays.y, data.arrays.test[1]])
    assert y[..., 4][y[..., 4] >= 0].long().bincount().tolist() == [361, 4153, 372]
