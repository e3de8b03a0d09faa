"""Predict files with a recorded model: ``python scripts/predict.py RUN_ID input=FILE_OR_FOLDER [output=FILE.csv]``."""

import argparse

from lightning_modules.command_line import answer
from lightning_modules.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write a CSV with class and probability (or values) for each sample of images, arrays (.npy), tables "
        "(.csv, .tsv, .parquet; columns are matched by name) or texts (.txt)."
    )
    parser.add_argument("run", help="id, its first 6 or more characters, or name of a run; or models:/…")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="input=FILE_OR_FOLDER; output=FILE.csv (default: the terminal); encoding=cp1252 of text files (default: detected)",
    )
    arguments = parser.parse_args()
    import io
    import sys
    from dataclasses import replace
    from pathlib import Path

    from lightning_modules.data.encoding import encoding_problems
    from lightning_modules.export.words import read_words

    read = read_words(arguments.settings, {"input": None, "output": None, "encoding": None})
    if not read["input"]:
        raise UserError("input=FILE_OR_FOLDER is needed: what is to be predicted")
    from lightning_modules.predict import find_model, predict
    from lightning_modules.tracking.store import open_store

    task, wanted = find_model(open_store(), arguments.run)
    if read["encoding"]:
        if problems := encoding_problems(read["encoding"]):
            raise UserError(problems[0].removeprefix("data."))
        wanted = replace(wanted, encoding=read["encoding"])
    table = io.StringIO()  # all of it or nothing: a damaged file in the middle leaves no half table
    count = predict(task, wanted, Path(read["input"]).expanduser(), table)
    if read["output"]:
        Path(read["output"]).expanduser().write_text(table.getvalue(), encoding="utf-8")
        print(f"{count} samples: {read['output']}")
    else:
        sys.stdout.write(table.getvalue())


if __name__ == "__main__":
    answer(main)
