"""``touchstone ui``: MLflow's pages on this store."""

import contextlib
import signal
import subprocess
import sys
import time
import urllib.request
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from lightning_modules.cli.arguments import Verb
from lightning_modules.config.errors import UserError


@dataclass
class Arguments:
    """Open MLflow's pages on this store, on loopback."""

    port: Annotated[str, "TCP port"] = "5000"
    host: Annotated[str, "address to listen on"] = "127.0.0.1"


def _ui(arguments: Arguments) -> None:
    from lightning_modules.cli.port import free_port
    from lightning_modules.tracking.provenance import mask_secrets
    from lightning_modules.tracking.store import open_store
    from lightning_modules.tracking.ui_view import configure_columns

    store = open_store()
    if not store.is_local:
        raise UserError(f"MLFLOW_TRACKING_URI is set: the pages are those of its server, {mask_secrets(store.uri)}")
    port = free_port(arguments.port, arguments.host)
    path = configure_columns(store) or "/"
    address = ["--host", arguments.host, "--port", str(port)]
    where = ["--backend-store-uri", store.uri, "--default-artifact-root", str(store.artifacts)]
    server = subprocess.Popen([str(Path(sys.executable).with_name("mlflow")), "ui", *where, *address])
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    try:
        _show(server, f"http://{host}:{port}", path)
        sys.exit(server.wait())
    except KeyboardInterrupt:
        server.wait()


def _show(server: "subprocess.Popen[Any]", address: str, path: str) -> None:
    """Wait until the server answers, print the address of the runs, and open a browser where there is one."""
    while server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
            print(f"\nruns: {address}{path}\n", flush=True)
            with contextlib.suppress(webbrowser.Error):
                webbrowser.open(address + path)
            return
        time.sleep(0.5)


main = Verb("ui", "[KEY=VALUE …]", Arguments, _ui, ("", "port=5050"))
