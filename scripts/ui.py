"""Open MLflow's pages on this store, on loopback: ``python scripts/ui.py [--port 5000]``."""

import argparse
import contextlib
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import webbrowser
from pathlib import Path
from typing import Any

from lightning_modules.command_line import answer
from lightning_modules.errors import UserError
from lightning_modules.tracking.store import open_store
from lightning_modules.tracking.view import open_on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--host", default="127.0.0.1")
    arguments = parser.parse_args()
    store = open_store()
    if not store.is_local:
        raise UserError(f"MLFLOW_TRACKING_URI is set: the pages are those of its server, {store.uri}")
    require_port(arguments.host, arguments.port)
    path = open_on(store) or "/"
    place = ["--host", arguments.host, "--port", str(arguments.port)]
    where = ["--backend-store-uri", store.uri, "--default-artifact-root", str(store.artifacts)]
    server = subprocess.Popen([str(Path(sys.executable).with_name("mlflow")), "ui", *where, *place])
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    try:
        show(server, f"http://{arguments.host}:{arguments.port}", path)
        sys.exit(server.wait())
    except KeyboardInterrupt:
        server.wait()


def require_port(host: str, port: int) -> None:
    """Raise UserError where something else listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"port {port} of {host}: {error.strerror}; try --port {port + 1}") from error


def show(server: "subprocess.Popen[Any]", address: str, path: str) -> None:
    """Wait until the server answers, then say where the runs are, and open a browser where there is one."""
    while server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
            print(f"\nruns: {address}{path}\n", flush=True)
            with contextlib.suppress(webbrowser.Error):
                webbrowser.open(address + path)
            return
        time.sleep(0.5)


if __name__ == "__main__":
    answer(main)
