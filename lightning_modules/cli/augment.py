"""``touchstone augment``: augmented copies of a training set on disk."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from lightning_modules.cli.arguments import Verb


@dataclass
class Arguments:
    """Write augmented copies of the training part into a folder with a manifest (source, transforms, seed). touchstone train
    data.augmented=FOLDER then trains on them too: on those of its own training samples."""

    out: Annotated[Path, "folder to write the copies to"]
    copies: Annotated[int, Ge(1), "copies of each sample"] = 1
    overwrite: Annotated[bool, "replace copies that are in the folder"] = False
    overrides: Annotated[list[str], "data=, augmentation=, seed= and their keys, as for train"] = field(
        default_factory=list
    )


def _augment(arguments: Arguments) -> None:
    from lightning_modules.cli.augmented_copies import AugmentRequest, write_copies

    out = arguments.out.expanduser().resolve()
    manifest = write_copies(AugmentRequest(arguments.overrides, out, arguments.copies, arguments.overwrite))
    print(f"{manifest['samples']:,} copies of {manifest['data']} in {out}")
    print(f"train on them:  touchstone train data.augmented={out} …")


main = Verb(
    "augment",
    "out=FOLDER [KEY=VALUE …]",
    Arguments,
    _augment,
    ("out=copies copies=4 data=digits augmentation=image_basic",),
)
