"""Open MLflow's pages on this store, on loopback: ``python scripts/ui.py [--port 5000]``."""

import argparse
import contextlib
import signal
import subprocess
import sys
import time
import urllib.request
import webbrowser
from pathlib import Path
from typing import Any

from lightning_modules.command_line import answer
from lightning_modules.errors import UserError
from lightning_modules.export.words import free_port
from lightning_modules.tracking.provenance import mask_secrets
from lightning_modules.tracking.store import open_store
from lightning_modules.tracking.view import open_on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", default="5000")
    parser.add_argument("--host", default="127.0.0.1")
    arguments = parser.parse_args()
    store = open_store()
    if not store.is_local:
        raise UserError(f"MLFLOW_TRACKING_URI is set: the pages are those of its server, {mask_secrets(store.uri)}")
    port = free_port("--port ", arguments.port, arguments.host)
    path = open_on(store) or "/"
    place = ["--host", arguments.host, "--port", str(port)]
    where = ["--backend-store-uri", store.uri, "--default-artifact-root", str(store.artifacts)]
    server = subprocess.Popen([str(Path(sys.executable).with_name("mlflow")), "ui", *where, *place])
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    try:
        show(server, f"http://{host}:{port}", path)
        sys.exit(server.wait())
    except KeyboardInterrupt:
        server.wait()


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
