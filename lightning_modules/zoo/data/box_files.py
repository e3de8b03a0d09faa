"""Boxes of images from annotation files: COCO's JSON, Pascal VOC's XML and YOLO's text files.

Longer than 200 lines: three formats, each a few functions.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers import expat

import yaml
from PIL import Image

from lightning_modules.config.errors import UserError, first_line, suggest
from lightning_modules.data.image_folder import SUFFIXES

PARTS = ("train", "val", "test")
NO_BOX = -1.0  # the class of rows that pad the boxes of an image
_SIDEWAYS, _ORIENTATION = 5, 0x0112  # values of this EXIF tag from 5 on exchange width and height


@dataclass(frozen=True)
class Box:
    """Corners in pixels of the image, the name of the class, and the place of the annotation for messages."""

    x1: float
    y1: float
    x2: float
    y2: float
    name: str
    where: str


@dataclass(frozen=True)
class AnnotatedImage:
    """An image file with its boxes, maybe none. `part`: train, val or test, where the files say so."""

    file: Path
    boxes: tuple[Box, ...]
    part: str | None = None


@dataclass(frozen=True)
class AnnotatedImages:
    """What a folder holds; `files` are those with annotations."""

    images: list[AnnotatedImage]
    class_names: list[str]
    files: tuple[Path, ...]


def image_size(file: Path) -> tuple[int, int]:
    """Return (width, height) as the image is shown, from its header. Raises UserError if it is not a readable image."""
    try:
        with Image.open(file) as image:
            sideways = image.getexif().get(_ORIENTATION, 1) >= _SIDEWAYS
            return (image.height, image.width) if sideways else image.size
    except Exception as error:  # a damaged image may raise almost anything
        raise UserError(f"{file} cannot be read as an image ({first_line(error)}): repair or remove it") from error


def read_text(file: Path) -> str:
    """Return the text of an annotation file. Raises UserError if it is missing or not UTF-8."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {first_line(error)}") from error


def _find_image(folders: Sequence[Path], name: str, where: str) -> Path:
    """Return the file `name`, which may lack its suffix, in one of the folders. Raises UserError if there is none."""
    for folder in folders:
        if Path(name).suffix.lower() in SUFFIXES and (folder / name).is_file():
            return folder / name
        for suffix in (".jpg", ".png", *SUFFIXES):
            for spelled in (suffix, suffix.upper()):
                if (file := folder / f"{name}{spelled}").is_file():
                    return file
    raise UserError(
        f"{where}: the image '{name}' is missing in {', '.join(map(str, folders))}; add it, or remove its entry"
    )


def _known_name(name: str, known: Sequence[str] | None, where: str) -> str:
    if known is not None and name not in known:
        raise UserError(f"{where}: unknown class '{name}'; {suggest(name, known)} Known are data.classes={list(known)}")
    return name


def _numbers(values: Iterable[Any], where: str, expected: str) -> tuple[float, float, float, float]:
    """Return four finite numbers. Raises UserError for anything else."""
    given = list(values)
    try:
        numbers = [float(value) for value in given]
    except (TypeError, ValueError):
        numbers = [float("nan")]
    if not all(abs(number) < float("inf") for number in numbers) or len(numbers) != 4:
        raise UserError(f"{where}: expected {expected}, got {given}")
    return numbers[0], numbers[1], numbers[2], numbers[3]


# --- Pascal VOC ----------------------------------------------------------------------------------------------------
def read_voc(root: Path, classes: Sequence[str] | None) -> AnnotatedImages:
    """Read ``Annotations/*.xml`` of the images in ``JPEGImages/``, divided as in ``ImageSets/Main/{train,val,test}.txt``.

    Without these lists all annotated images are one part. Corners are taken as they are written. Class names are
    `classes`, else those that occur, sorted.
    """
    folder, lists = root / "Annotations", root / "ImageSets" / "Main"
    listed = {part: lists / f"{part}.txt" for part in PARTS if (lists / f"{part}.txt").is_file()}
    stems: list[tuple[str, str | None, str]] = []
    for listed_part, file in listed.items():
        lines = enumerate(read_text(file).splitlines(), 1)
        stems += [(line.split()[0], listed_part, f"{file}, line {number}") for number, line in lines if line.strip()]
    if not listed:
        stems = [(file.stem, None, str(file)) for file in sorted(folder.glob("*.xml"))]
    images = []
    for stem, part, where in stems:
        if not (file := folder / f"{stem}.xml").is_file():
            raise UserError(f"{where}: the annotation {file} is missing; add it, or remove the entry")
        image = _find_image([root / "JPEGImages"], stem, str(file))
        images.append(AnnotatedImage(image, tuple(_voc_boxes(file, classes)), part))
    names = sorted({box.name for image in images for box in image.boxes})
    files = (*(folder / f"{stem}.xml" for stem, _, _ in stems), *listed.values())
    return AnnotatedImages(images, list(classes or names), files)


def _voc_boxes(file: Path, classes: Sequence[str] | None) -> Iterator[Box]:
    for line, leaves in _xml_objects(file):
        where = f"{file}, line {line}"
        corners = [leaves.get(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
        numbers = _numbers(corners, where, "a bndbox of the numbers xmin, ymin, xmax and ymax")
        if not (name := leaves.get("name")):
            raise UserError(f"{where}: the object has no name")
        yield Box(*numbers, _known_name(name, classes, where), where)


def _xml_objects(file: Path) -> list[tuple[int, dict[str, str]]]:
    """Return line and texts by path of each ``<object>``; parts of an object (``part/…``) have paths of their own.

    Raises UserError for malformed XML, and for a document type, whose entities could expand without limit.
    """
    objects: list[tuple[int, dict[str, str]]] = []
    path: list[str] = []
    parser = expat.ParserCreate()

    def start(tag: str, attributes: Mapping[str, str]) -> None:
        path.append(tag)
        if path[1:] == ["object"]:
            objects.append((parser.CurrentLineNumber, {}))

    def text(content: str) -> None:
        if path[1:2] == ["object"] and (content := content.strip()):
            leaves, key = objects[-1][1], "/".join(path[2:])
            leaves[key] = leaves.get(key, "") + content

    def refuse(*declared: object) -> None:
        raise UserError(f"{file}, line {parser.CurrentLineNumber}: a document type is not allowed; remove <!DOCTYPE>")

    parser.StartElementHandler, parser.EndElementHandler = start, lambda tag: path.pop()
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = text, refuse
    parser.buffer_text = True
    try:
        parser.Parse(file.read_bytes(), True)
    except (expat.ExpatError, OSError) as error:
        raise UserError(f"{file} is no readable XML: {first_line(error)}") from error
    return objects


# --- COCO ----------------------------------------------------------------------------------------------------------
def read_coco(root: Path, classes: Sequence[str] | None) -> AnnotatedImages:
    """Read ``annotations.json``, or ``{train,val,test}.json``, also in ``annotations/`` and named ``instances_train….json``.

    Images are looked for in ``images/PART``, ``PART``, ``images`` and beside the file. Crowds (``iscrowd``) are left out.
    Class names are `classes`, else the categories by id.
    """
    found: list[tuple[str | None, Path]] = [
        (part, file)
        for part in PARTS
        for pattern in (f"{part}.json", f"annotations/{part}.json", f"annotations/instances_{part}*.json")
        for file in sorted(root.glob(pattern))[:1]
    ]
    found = found or [(None, root / "annotations.json")]
    images: list[AnnotatedImage] = []
    names: dict[int, str] = {}
    for part, file in found:
        folders = [root / "images" / (part or ""), root / (part or ""), root / "images", root, file.parent]
        images += _coco_images(file, folders, part, classes, names)
    ordered = [names[key] for key in sorted(names)]
    return AnnotatedImages(images, list(classes or dict.fromkeys(ordered)), tuple(file for _, file in found))


def _coco_images(
    file: Path, folders: list[Path], part: str | None, classes: Sequence[str] | None, names: dict[int, str]
) -> list[AnnotatedImage]:
    try:
        content = json.loads(read_text(file))
        files = {int(entry["id"]): str(entry["file_name"]) for entry in content["images"]}
        names |= {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
        entries = list(content["annotations"])
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}: no valid JSON: {error.msg}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{file}: expected COCO's lists of images (id, file_name), categories (id, name) and annotations: {error!r}"
        ) from error
    boxes: dict[int, list[Box]] = {key: [] for key in files}
    for i, entry in enumerate(entries):
        where = f"{file}, annotations[{i}]"
        if not isinstance(entry, dict) or entry.get("image_id") not in boxes:
            raise UserError(f"{where}: no image has this image_id")
        if entry.get("category_id") not in names:
            raise UserError(f"{where}: unknown class: no category has the id {entry.get('category_id')}")
        given = entry.get("bbox")
        x, y, width, height = _numbers(given if isinstance(given, list) else [], where, "bbox=[x, y, width, height]")
        name = _known_name(names[entry["category_id"]], classes, where)
        if not entry.get("iscrowd"):
            boxes[entry["image_id"]].append(Box(x, y, x + width, y + height, name, where))
    places = {key: _find_image(folders, name, f"{file}, image {key}") for key, name in files.items()}
    return [AnnotatedImage(places[key], tuple(boxes[key]), part) for key in files]


# --- YOLO ----------------------------------------------------------------------------------------------------------
def read_yolo(root: Path, classes: Sequence[str] | None) -> AnnotatedImages:
    """Read ``labels/PART/NAME.txt`` of ``images/PART/NAME.*``, or ``labels/NAME.txt`` of ``images/NAME.*``.

    A line is ``class x y width height``: the number of the class, centre and size as shares of the image. An image
    without a file, or with an empty one, has no objects. Class names are `classes`, else ``names`` of ``data.yaml``.
    """
    listed = root / "data.yaml"
    names = list(classes or _yolo_names(listed))
    parts: list[str | None] = [part for part in PARTS if (root / "images" / part).is_dir()]
    images, files = [], [listed] if listed.is_file() else []
    for part in parts or [None]:
        folder, labels = root / "images" / (part or ""), root / "labels" / (part or "")
        found = {file.stem: file for file in sorted(folder.glob("*")) if file.suffix.lower() in SUFFIXES}
        texts = {file.stem: file for file in sorted(labels.glob("*.txt"))}
        for stem in texts.keys() - found.keys():
            _find_image([folder], stem, str(texts[stem]))
        files += texts.values()
        for stem, image in found.items():
            boxes = tuple(_yolo_boxes(texts[stem], image, names)) if stem in texts else ()
            images.append(AnnotatedImage(image, boxes, part))
    return AnnotatedImages(images, names, tuple(files))


def _yolo_names(file: Path) -> list[str]:
    try:
        names = yaml.safe_load(read_text(file))["names"]
        return [str(name) for name in (names.values() if isinstance(names, dict) else names)]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{file}: expected names, a list of the classes; or set data.classes") from error


def _yolo_boxes(file: Path, image: Path, names: Sequence[str]) -> Iterator[Box]:
    sides: tuple[int, int] | None = None
    for number, line in enumerate(read_text(file).splitlines(), 1):
        where, words = f"{file}, line {number}", line.split()
        if not words:
            continue
        x, y, width, height = _numbers(words[1:], where, "class x y width height")
        if not words[0].isdecimal() or int(words[0]) >= len(names):
            raise UserError(f"{where}: unknown class '{words[0]}'; expected 0 to {len(names) - 1}: {', '.join(names)}")
        across, down = sides = sides or image_size(image)
        x1, y1 = (x - width / 2) * across, (y - height / 2) * down
        yield Box(x1, y1, x1 + width * across, y1 + height * down, names[int(words[0])], where)


READERS = {"coco": read_coco, "voc": read_voc, "yolo": read_yolo}
