"""``touchstone export``: a recorded model for another runtime, verified and timed."""

import tempfile
from pathlib import Path
from typing import Annotated, Literal

from lightning_modules.cli.arguments import verb
from lightning_modules.config.errors import UserError

Format = Literal["onnx", "pt2", "aoti", "transformers"]


@verb("RUN [KEY=VALUE …]", ("3e782338", "3e782338 format=onnx quantized=true"))
def main(
    target: Annotated[str, "id, its first 6 or more characters, or name of a run"],
    format: Annotated[
        Format, "onnx (ONNX Runtime), pt2 (torch.export), aoti (AOTInductor), or transformers for model=masked_bert"
    ] = "onnx",
    quantized: Annotated[bool, "int8 weights and activations"] = False,
    out: Annotated[str, "the folder that format=transformers writes; default RUN-transformers"] = "",
) -> dict[str, str]:
    """Write a run's best model for another runtime, from raw samples to probabilities; compare it with the checkpoint on
    the test set, time both, and log file and numbers to the run."""
    from lightning_modules.export.export import export_run, log_export, print_export
    from lightning_modules.tracking.store import find_run, open_store

    if quantized and format == "transformers":
        raise UserError("quantized=true: not for format=transformers")
    if out and format != "transformers":
        raise UserError("out: only for format=transformers; other files are logged to the run")
    store = open_store()
    run = find_run(store, target)
    if format == "transformers":
        from lightning_modules.export.transformers_folder import export_transformers

        return {"run_id": run.info.run_id, "artifact": export_transformers(store, run, out)}
    with tempfile.TemporaryDirectory() as folder:
        found, example = export_run(store, run, format, quantized, Path(folder))
        print_export(found)
        log_export(store, run.info.run_id, found, example)
    artifact = f"export/{found.name}/{found.path.name}"
    print(f"logged to run {run.info.run_id} as {artifact}")
    return {"run_id": run.info.run_id, "artifact": artifact}
