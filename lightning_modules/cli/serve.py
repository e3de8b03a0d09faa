"""``touchstone serve``: a recorded model over HTTP."""

import sys
from typing import Annotated

from lightning_modules.cli.arguments import verb


@verb("RUN [port=5001]", ("3e782338", "models:/digits-convnet@champion port=8080"))
def main(
    target: Annotated[str, "id, its first 6 or more characters, or name of a run; or models:/…"],
    port: Annotated[str, "TCP port"] = "5001",
) -> None:
    """Start MLflow's scoring server on 127.0.0.1 for the model that a run has published: POST raw samples to
    /invocations."""
    from lightning_modules.cli.ui import free_port
    from lightning_modules.export.mlflow_server import serve
    from lightning_modules.run.serve import find_logged_model
    from lightning_modules.tracking.store import open_store

    number = free_port(port)
    store = open_store()
    sys.exit(serve(*find_logged_model(store, target), store.uri, number))
