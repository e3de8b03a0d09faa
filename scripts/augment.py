"""Write augmented copies of a training set: ``python scripts/augment.py out=FOLDER copies=4 data=… augmentation=… [seed=0]``."""

import argparse

from lightning_modules.command_line import answer

OWN = {"out": None, "copies": "1", "overwrite": "false"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write augmented copies of the training part into a folder with a manifest (source, transforms, seed). "
        "`scripts/train.py data.augmented=FOLDER` then trains on them too: on those of its own training samples."
    )
    parser.add_argument(
        "settings", nargs="+", metavar="KEY=VALUE",
        help="out=FOLDER, copies=N of each sample, overwrite=true; data=, augmentation=, seed= and their keys as for train.py",
    )  # fmt: skip
    words = parser.parse_args().settings
    from pathlib import Path

    from lightning_modules.errors import UserError
    from lightning_modules.export.words import read_words, truth

    mine = [word for word in words if word.partition("=")[0] in OWN]
    own = read_words(mine, OWN)
    if own["out"] is None:
        raise UserError("out=FOLDER is needed: where the copies are written")
    if not str(own["copies"]).isdigit():
        raise UserError(f"copies={own['copies']}: a whole number of at least 1 is wanted")
    from lightning_modules.offline import Wish, write_copies

    rest = [word for word in words if word not in mine]
    out = Path(str(own["out"])).expanduser().resolve()
    wish = Wish(rest, out, int(str(own["copies"])), truth("overwrite", own["overwrite"]))
    manifest = write_copies(wish)
    print(f"{manifest['samples']:,} copies of {manifest['data']} in {out}")
    print(f"train on them:  python scripts/train.py data.augmented={out} …")


if __name__ == "__main__":
    answer(main)
