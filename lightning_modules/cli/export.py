"""``touchstone export``: a recorded model for another runtime, verified and timed."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from lightning_modules.cli.arguments import Verb


@dataclass
class Arguments:
    """Write a run's best model for another runtime, from raw samples to probabilities; compare it with the checkpoint on
    the test set, time both, and log file and numbers to the run."""

    target: Annotated[str, "id, its first 6 or more characters, or name of a run"]
    format: Annotated[
        Literal["onnx", "pt2", "aoti"], "onnx (ONNX Runtime), pt2 (torch.export) or aoti (AOTInductor)"
    ] = "onnx"
    quantized: Annotated[bool, "int8 weights and activations"] = False


def _export(arguments: Arguments) -> None:
    from lightning_modules.export import export_report
    from lightning_modules.export.export import export_run
    from lightning_modules.tracking.store import find_run, open_store

    store = open_store()
    run = find_run(store, arguments.target)
    with tempfile.TemporaryDirectory() as folder:
        found, example = export_run(store, run, arguments.format, arguments.quantized, Path(folder))
        export_report.print_export(found)
        export_report.log_export(store, run.info.run_id, found, example)
    print(f"logged to run {run.info.run_id} as export/{found.name}/{found.path.name}")


main = Verb("export", "RUN [KEY=VALUE …]", Arguments, _export, ("3e782338", "3e782338 format=onnx quantized=true"))
