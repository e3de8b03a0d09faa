"""Export a recorded model and verify it: ``python scripts/export.py RUN_ID format=onnx|pt2|aoti [quantized=true]``."""

import argparse

from lightning_modules.command_line import answer


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write a run's best model for another runtime, from raw samples to probabilities; compare it with the "
        "checkpoint on the test set, time both, and log file and numbers to the run."
    )
    parser.add_argument("run", help="id, its first 6 or more characters, or name of a run")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="format=onnx (ONNX Runtime; the default), pt2 (torch.export) or aoti (AOTInductor); quantized=true: int8",
    )
    arguments = parser.parse_args()
    import tempfile
    from pathlib import Path

    from lightning_modules.export.words import read_words, truth

    read = read_words(arguments.settings, {"format": "onnx", "quantized": "false"})
    quantized = truth("quantized", read["quantized"])
    from lightning_modules.export import record
    from lightning_modules.export.export import export
    from lightning_modules.tracking.store import find_run, open_store

    store = open_store()
    run = find_run(store, arguments.run)
    with tempfile.TemporaryDirectory() as folder:
        found, example = export(store, run, str(read["format"]), quantized, Path(folder))
        record.show(found)
        record.log(store, run.info.run_id, found, example)
    print(f"logged to run {run.info.run_id} as export/{found.name}/{found.path.name}")


if __name__ == "__main__":
    answer(main)
