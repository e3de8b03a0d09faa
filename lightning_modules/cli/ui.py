"""``touchstone ui``: MLflow's pages on this store."""

import contextlib
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import webbrowser
from pathlib import Path
from typing import Annotated, Any

from lightning_modules.cli.arguments import verb
from lightning_modules.config.errors import UserError


@verb("[KEY=VALUE …]", ("", "port=5050"))
def main(port: Annotated[str, "TCP port"] = "5000", host: Annotated[str, "address to listen on"] = "127.0.0.1") -> None:
    """Open MLflow's pages on this store, on loopback."""
    from lightning_modules.tracking.provenance import mask_secrets
    from lightning_modules.tracking.store import open_store
    from lightning_modules.tracking.ui_view import configure_columns

    store = open_store()
    if not store.is_local:
        raise UserError(f"MLFLOW_TRACKING_URI is set: the pages are those of its server, {mask_secrets(store.uri)}")
    number = free_port(port, host)
    path = configure_columns(store) or "/"
    address = ["--host", host, "--port", str(number)]
    where = ["--backend-store-uri", store.uri, "--default-artifact-root", str(store.artifacts)]
    server = subprocess.Popen([str(Path(sys.executable).with_name("mlflow")), "ui", *where, *address])
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    try:
        _show(server, f"http://{f'[{host}]' if ':' in host else host}:{number}", path)
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


def free_port(port: str, host: str = "127.0.0.1") -> int:
    """The number of the port that ``port=`` gives, if a server can listen there.

    Raises UserError for an invalid number, an unknown host, and a port that is in use or not permitted.
    """
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 2**16):
        raise UserError(f"port={port}: expected a port number from 1 to 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError, ValueError) as error:
        raise UserError(f"host {host!r} is not an address of this machine: {error}; try 127.0.0.1") from error
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            other = int(port) + 1 if int(port) < 2**16 - 1 else 5000
            raise UserError(f"port {port} of {host}: {error.strerror}; try port={other}") from error
    return int(port)
