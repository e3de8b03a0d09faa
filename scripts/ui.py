"""Open MLflow's pages on this store, on loopback: ``python scripts/ui.py [--port 5000]``."""

import argparse
import os
import socket
import sys
from pathlib import Path

from lightning_modules.errors import UserError
from lightning_modules.tracking.store import open_store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--host", default="127.0.0.1")
    arguments = parser.parse_args()
    store = open_store()
    if not store.is_local:
        raise UserError(f"MLFLOW_TRACKING_URI is set: the pages are those of its server, {store.uri}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((arguments.host, arguments.port))
        except OSError as error:
            raise UserError(
                f"port {arguments.port} of {arguments.host}: {error.strerror}; try --port {arguments.port + 1}"
            ) from error
    mlflow = Path(sys.executable).with_name("mlflow")
    command = [
        str(mlflow),
        "ui",
        "--backend-store-uri",
        store.uri,
        "--default-artifact-root",
        str(store.artifacts),
    ]
    os.execv(mlflow, [*command, "--host", arguments.host, "--port", str(arguments.port)])


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
