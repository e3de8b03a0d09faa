"""``touchstone serve``: a recorded model over HTTP."""

import sys
from dataclasses import dataclass
from typing import Annotated

from lightning_modules.cli.arguments import Verb


@dataclass
class Arguments:
    """Start MLflow's scoring server on 127.0.0.1 for the model that a run has published: POST raw samples to
    /invocations."""

    target: Annotated[str, "id, its first 6 or more characters, or name of a run; or models:/…"]
    port: Annotated[str, "TCP port"] = "5001"


def _serve(arguments: Arguments) -> None:
    from lightning_modules.cli.port import free_port
    from lightning_modules.export.mlflow_server import serve
    from lightning_modules.run.serve import find_logged_model
    from lightning_modules.tracking.store import open_store

    port = free_port(arguments.port)
    store = open_store()
    sys.exit(serve(*find_logged_model(store, arguments.target), store.uri, port))


main = Verb("serve", "RUN [port=5001]", Arguments, _serve, ("3e782338", "models:/digits/1 port=8080"))
