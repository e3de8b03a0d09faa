"""``touchstone ui``: MLflow's pages on this store."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import webbrowser
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from lightning_modules.cli.arguments import verb
from lightning_modules.compat.mlflow import VIEW_TAG
from lightning_modules.config.errors import UserError
from lightning_modules.tracking.tags import KIND_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run

    from lightning_modules.tracking.store import Store

VIEW_NAME = "touchstone"  # MLflow stores a shared view as a tag of the experiment
_RUNS_READ = 200  # newest runs that are read
_DEFAULT_COLUMNS = ("data", "model", "optimizer.lr", "seed")
_METRICS, _PARAMS = 4, 8  # maximum number of columns


@verb("[KEY=VALUE …]", ("", "port=5050"))
def main(port: Annotated[str, "TCP port"] = "5000", host: Annotated[str, "address to listen on"] = "127.0.0.1") -> None:
    """Open MLflow's pages on this store, on loopback."""
    from lightning_modules.tracking.secrets import mask_secrets
    from lightning_modules.tracking.store import open_store

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


def _show(server: "subprocess.Popen[bytes]", address: str, path: str) -> None:
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


def configure_columns(store: "Store") -> str | None:
    """Set the view of the experiment with the newest run; return the page's path, or None without runs."""
    from lightning_modules.tracking.store import page

    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    runs = store.client.search_runs(experiments, max_results=_RUNS_READ, order_by=["attributes.start_time DESC"])
    if not runs:
        return None
    experiment = runs[0].info.experiment_id
    view = {
        "selectedColumns": columns([run for run in runs if run.info.experiment_id == experiment]),
        "orderByKey": "attributes.start_time", "orderByAsc": False, "startTime": "ALL", "lifecycleFilter": "Active",
        "searchFilter": "", "modelVersionFilter": "All Runs", "datasetsFilter": [],
    }  # fmt: skip
    store.client.set_experiment_tag(experiment, f"{VIEW_TAG}{VIEW_NAME}", json.dumps(view))
    return f"/{page(experiment, 'runs')}&viewStateShareKey={VIEW_NAME}"


def columns(runs: "list[Run]") -> list[str]:
    """The chosen groups and swept keys that distinguish runs, and the most common test and val metrics."""
    swept = [key for run in runs for key in json.loads(run.data.tags.get("sweep.keys", "[]"))]
    params = dict.fromkeys([*_DEFAULT_COLUMNS[:2], *dict.fromkeys(swept), *_DEFAULT_COLUMNS[2:]])
    known = {key for run in runs for key in run.data.params}
    found = Counter(name for run in runs for name in run.data.metrics if name.count("/") == 1)
    own = {name for run in runs if run.data.tags.get(KIND_TAG) != "sweep" for name in run.data.metrics}
    metrics = [name for name, _ in found.most_common() if name.startswith("test/") and name in own][: _METRICS // 2]
    for name in ("test/accuracy", "test/loss"):
        metrics = [name, *(other for other in metrics if other != name)] if name in found else metrics
    metrics = metrics[: _METRICS // 2] + [name for name in ("val/accuracy", "val/loss") if name in found]
    metrics += [name for name in (f"{metrics[0]}_best", f"{metrics[0]}_std") if name in found] if metrics else []
    chosen = [key for key in params if key in known][:_PARAMS]
    return [*(f"metrics.`{name}`" for name in metrics), *(f"params.`{key}`" for key in chosen)]
