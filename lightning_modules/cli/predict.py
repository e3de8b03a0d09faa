"""``touchstone predict``: classes and probabilities of files."""

import csv
import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from lightning_modules.cli.arguments import verb
from lightning_modules.config.errors import UserError


@verb(
    "RUN input=FILE_OR_FOLDER [KEY=VALUE …]",
    ("3e782338 input=images/", "3e782338 input=table.csv output=predictions.csv"),
)
def main(
    target: Annotated[str, "id, its first 6 or more characters, or name of a run; or models:/…"],
    input: Annotated[Path, "file or folder with the samples"],
    output: Annotated[Path | None, "CSV file (default: the terminal); of masks: a folder"] = None,
    pictures: Annotated[Path | None, "folder for the images with what was found drawn on them (detection)"] = None,
    encoding: Annotated[str | None, "encoding of text files, as in cp1252 (default: detected)"] = None,
) -> dict[str, object]:
    """Write a CSV with class and probability (or values) for each sample of images, recordings, arrays (.npy), tables
    (.csv, .tsv, .parquet; columns are matched by name) or texts (.txt). A segmentation writes masks into a folder; speech
    recognition writes the text of each recording (.wav, .flac, …)."""
    from lightning_modules.data.text_encoding import check_encoding
    from lightning_modules.run.input_files import SUFFIXES, list_files
    from lightning_modules.run.predict import find_model, predict
    from lightning_modules.tracking.store import open_store

    task, wanted = find_model(open_store(), target)
    if hasattr(task, "vocabulary"):
        raise UserError(f"{target} is a language model, which continues texts: touchstone generate")
    if hasattr(task, "mask_id"):
        raise UserError(f"{target} is a masked language model: touchstone export {target} format=transformers")
    if hasattr(task, "predict_masks"):
        from lightning_modules.cli.mask_files import write_masks

        if output is None:
            raise UserError(f"{target} predicts masks: set output=FOLDER")
        segmentation: Any = task
        rows = write_masks(segmentation, wanted, input.expanduser(), output.expanduser())
        print(f"{len(rows)} masks: {output}")
        return {"samples": len(rows), "output": output, "predictions": rows}
    if encoding:
        check_encoding(encoding, "encoding")
        wanted = replace(wanted, encoding=encoding)
    table = io.StringIO()  # all of it or nothing: a damaged file in the middle leaves no half table
    if draw := getattr(task, "predict_files", None):
        if encoding:
            raise UserError(f"encoding={encoding}: {target} detects it for each file; convert other files to UTF-8")
        files = list_files(input.expanduser(), getattr(task, "file_suffixes", SUFFIXES))
        count = draw(files, table, pictures and pictures.expanduser())
    elif pictures:
        raise UserError(f"pictures={pictures}: {target} finds nothing to draw; remove it")
    else:
        count = predict(task, wanted, input.expanduser(), table)
    if output:
        output.expanduser().write_text(table.getvalue(), encoding="utf-8")
        print(f"{count} samples: {output}")
    else:
        sys.stdout.write(table.getvalue())
    return {"samples": count, "output": output, "predictions": list(csv.DictReader(io.StringIO(table.getvalue())))}
